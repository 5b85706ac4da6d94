"""Marks of pinned peers, and the first messages that carry them."""

import ssl

import pytest
from ends import Ends, made_in
from hypothesis import example, given
from hypothesis import strategies as st
from strangers import client_context, first_message

from vfl.net import mark
from vfl.net.certificates import fingerprint
from vfl.net.mark import NoHello, is_made_with, key_of, new_mark, read_hello
from vfl.net.tls import Credentials, context_of, own_der


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return made_in(tmp_path_factory.mktemp("keys"))


def hello_of(credentials: Credentials) -> bytes:
    (pin,) = credentials.pins.values()
    return first_message(context_of(credentials, ssl.PROTOCOL_TLS_CLIENT, [pin]))


def test_a_mark_is_known_to_its_two_ends_alone(ends: Ends) -> None:
    keys = [
        key_of(fingerprint(own_der(one)), fingerprint(own_der(two)))
        for one, two in ((ends.insurer, ends.registry), (ends.registry, ends.insurer))
    ]
    found = read_hello(hello_of(ends.insurer))
    assert found and is_made_with(found, keys[0]) and not is_made_with(found, keys[1])
    assert not is_made_with(found[:-1] + bytes([found[-1] ^ 1]), keys[0])
    # Nothing of it is the same a second time.
    again = read_hello(hello_of(ends.insurer))
    assert again and is_made_with(again, keys[0])
    parts = [{one[i : i + 4] for i in range(29)} for one in (found, again)]
    assert not parts[0] & parts[1]  # by chance with 29 * 29 / 2^32, 2e-7


WHOLE_HELLO = first_message(client_context())


@given(st.integers(0, len(WHOLE_HELLO)))
def test_a_part_of_a_first_message_is_waited_for(length: int) -> None:
    found = read_hello(WHOLE_HELLO[:length])
    assert found == (b"" if length == len(WHOLE_HELLO) else None)


@given(st.binary(max_size=600))
@example(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
@example(b"\x16\x03\x01\x0f\xfb\x01\x00\x0f\xf7" + bytes(4091))
@example(b"\x16\x03\x01\x0f\xfb\x01\x00\x0f\xf7" + b"\xff" * 4091)
def test_any_bytes_are_a_first_message_or_none(data: bytes) -> None:
    for said in (data, b"\x16\x03\x01" + data, b"\x16\x03\x01\x00\xff\x01\x00\x00\xfb" + data):
        try:
            found = read_hello(said)
        except NoHello as error:
            assert len(str(error)) < 100
        else:
            assert found is None or len(found) in (0, 32)


@given(st.binary(max_size=40), st.integers(0, 255), st.data())
def test_a_spoilt_mark_is_none_or_another(noise: bytes, byte: int, data: st.DataObject) -> None:
    key = key_of("00" * 32, "11" * 32)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([new_mark(key)])
    hello = bytearray(first_message(context))
    at = data.draw(st.integers(9, len(hello) - 1))
    hello[at] = byte
    found = read_hello(bytes(hello) + noise)
    assert found is None or len(found) in (0, 32)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x15\x03\x01\x00\x02\x01\x00",
        b"\x16\x02\x00\x00\x10\x01",
        b"\x16\x03\x01\x00\x20\x02\x00\x00\x1c",
        b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc",
        b"\x16\x03\x01\x00\x40\x01\x00\x01\x00",
        b"\x00",
    ],
)
def test_what_is_no_first_message(said: bytes) -> None:
    with pytest.raises(NoHello):
        read_hello(said)


def test_a_list_of_names_is_no_mark() -> None:
    for names in (
        ["h2", "http/1.1"],
        ["a" * 63],
        ["zz" * 32],
        ["ab" * 32, "h2"],
        [" " * 32 + "ab" * 16],
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(names)
        assert read_hello(first_message(context)) == b""
    assert mark.LENGTH == 64
