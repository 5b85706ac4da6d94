"""Keys and ciphertexts to phe and back."""

import phe

from vfl.crypto import interchange


def test_a_key_of_phe_reads_and_writes_both_ways():
    theirs_public, theirs_private = phe.generate_paillier_keypair(n_length=2048)
    ours = interchange.from_phe(theirs_private)
    assert interchange.to_phe(ours.public) == theirs_public

    values = [0, 1, -1, 2**60, -(2**60)]
    numbers = interchange.encrypted_numbers(ours.public, ours.encrypt(values))
    assert [theirs_private.decrypt(number) for number in numbers] == values
    assert theirs_private.decrypt(numbers[1] + numbers[3]) == 2**60 + 1

    raw = interchange.ciphertexts(ours.public, [theirs_public.encrypt(v) for v in values])
    assert ours.decrypt(raw) == values
