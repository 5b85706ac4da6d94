"""Totals over clients, added by a server that reads neither parts nor totals."""

import asyncio

import numpy as np
import pytest
from clients import CONTEXT, in_plain, over_server
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from drawn import Drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import chisquare

from vfl.errors import ModelError, PeerError, VflError
from vfl.net.peer import HEADER, MemoryPeer
from vfl.net.wire import decode, encode
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.pooled import adding, adding_server
from vfl.protocols.pooled.adding import (
    TAGS,
    AddingBegin,
    AddingEnd,
    ClientKey,
    ClientKeys,
    GroupSecret,
    MaskedPart,
    MaskedTotal,
    MaskingAdder,
    SealedSecret,
    common_step,
    tags,
)
from vfl.protocols.pooled.adding_server import serve_totals

NAMES = ("ada", "bea", "cleo", "dora")
THREE = NAMES[:3]


def adding_all(parts, what="numbers"):
    """A role for each client that adds its arrays of `parts` one after the other."""

    def role(own):
        async def run(adder):
            return [await adder.total(values, what) for values in own]

        return run

    return {name: role(own) for name, own in parts.items()}


def random_parts(names, shapes, seed=0):
    rng = np.random.default_rng(seed)
    low, high = -(2**63), 2**63 - 1
    return {
        name: [rng.integers(low, high, shape, np.int64, endpoint=True) for shape in shapes]
        for name in names
    }


def sums(parts):
    """What the totals have to be: exact modulo 2^64."""
    return [np.sum(own, axis=0, dtype=np.int64) for own in zip(*parts.values(), strict=True)]


int64s = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=25)
@given(
    st.integers(2, 4).flatmap(
        lambda clients: arrays.arrays(
            np.int64, st.tuples(st.just(clients), st.integers(0, 3), st.integers(0, 40)), elements=int64s
        )
    )
)
def test_totals_are_exact_modulo_2_64_at_every_client(values):
    roles = adding_all({NAMES[k]: [own, own[::-1]] for k, own in enumerate(values)})
    right = [values.sum(axis=0), values.sum(axis=0)[::-1]]
    for ends in (over_server(roles), in_plain(roles)):
        ends.pop("server", None)
        for totals in ends.values():
            for total, due in zip(totals, right, strict=True):
                assert total.dtype == np.int64 and np.array_equal(total, due)


def test_arrays_of_several_messages(monkeypatch):
    for module in (adding, adding_server):
        monkeypatch.setattr(module, "WORDS", 128)
    for size in (1, 63, 64, 65, 128, 1000):
        parts = random_parts(NAMES[:3], [(size,), (2, size)], size)
        ends = over_server(adding_all(parts))
        assert ends.pop("server") == list(NAMES[:3])
        for totals in ends.values():
            assert all(map(np.array_equal, totals, sums(parts)))


# What the server sees.


def words_seen(parts):
    """What clients come to; the numbers that the server receives and that it sends (to one, as to all);
    sender, kind and size of all that it sees."""
    seen, form = {MaskedPart: [], MaskedTotal: []}, []

    def opened(to_client, _):
        def see(direction, kind, payload):
            form.append((to_client.name, direction, kind, len(payload)))
            for one in seen:
                if kind == one.__name__ and (one is MaskedPart or to_client.name == NAMES[0]):
                    seen[one].append(np.frombuffer(decode(payload, [one]).words, "<u8"))

        to_client.observers.append(see)

    ends = over_server(adding_all(parts), opened=opened)
    return ends, {kind: np.concatenate(words) for kind, words in seen.items()}, form


@pytest.mark.parametrize("names", [NAMES[:2], NAMES[:3]])
def test_the_server_sees_uniform_words_whatever_is_added(names):
    """Zeros, ones and random numbers look the same: to a test of their bytes, and in number and size."""
    forms = []
    for parts in (
        {name: [np.zeros(3000, np.int64)] * 2 for name in names},
        {name: [np.ones(3000, np.int64)] * 2 for name in names},
        random_parts(names, [3000, 3000]),
    ):
        ends, seen, form = words_seen(parts)
        forms.append(sorted(form))
        own = np.concatenate([array for arrays_ in parts.values() for array in arrays_])
        totals = np.concatenate(ends[names[0]])
        assert np.array_equal(totals, np.concatenate(sums(parts)))
        for words in seen.values():
            assert chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue > 1e-9
            # Nor does their last bit alone say anything, nor is one number that of another client.
            ones = int((words & np.uint64(1)).sum())
            assert abs(ones - len(words) / 2) < 6 * np.sqrt(len(words)) / 2
            assert not np.isin(words, np.concatenate([own, totals]).view(np.uint64)).any()
        assert len(np.unique(seen[MaskedPart])) == len(seen[MaskedPart])
        # Sums over fewer than all parts hide what is in them as well: over all there is still the pad.
        assert not np.isin(sum_of_parts(seen, len(names)), totals.view(np.uint64)).any()
    assert forms[0] == forms[1] == forms[2]


def sum_of_parts(seen, clients):
    """The sum over clients of what they sent, in whatever order it came in; steps have equal sizes."""
    size = 3000 + TAGS
    parts = seen[MaskedPart][: size * clients].reshape(clients, size)
    return parts.sum(axis=0, dtype=np.uint64)


def test_the_same_numbers_look_different_each_time():
    parts = {name: [np.arange(50)] * 3 for name in NAMES[:2]}
    seen = np.concatenate([words_seen(parts)[1][MaskedPart] for _ in range(2)])
    assert len(np.unique(seen)) == len(seen) == 2 * 2 * (3 * (50 + TAGS) + TAGS)


def test_no_secret_is_on_the_wire():
    drawn, wire = [], []

    def entropy(count):
        drawn.append(np.random.default_rng(len(drawn)).bytes(count))
        return drawn[-1]

    def opened(to_client, _):
        to_client.observers.append(lambda way, kind, payload: wire.append(payload))

    over_server(
        adding_all({name: [np.arange(9)] for name in NAMES[:3]}),
        opened=opened,
        made=lambda name, peer: MaskingAdder(peer, drawing(name, NAMES[:3], entropy)),
    )
    assert len(drawn) == 4  # a key each, and the group's secret
    assert not any(secret in b"".join(wire) for secret in drawn)


def drawing(name, names, entropy):
    """A client that draws from this."""
    return Participant(name, names, CONTEXT, resources=Resources(randomness=Drawn(entropy)))


def received_by(client, parts):
    """All that a client receives, where everybody draws the same at random in each run."""
    received = []

    def opened(to_client, to_server):
        if to_client.name == client:
            to_server.observers.append(
                lambda way, kind, payload: received.append(payload) if way == "received" else None
            )

    def made(name, peer):
        drawn = np.random.default_rng(NAMES.index(name))
        return MaskingAdder(peer, drawing(name, tuple(parts), drawn.bytes))

    over_server(adding_all(parts), opened=opened, made=made)
    return received


def test_a_client_receives_nothing_but_the_total():
    """To the last bit the same, whatever the others' parts are that make it."""
    parts = random_parts(THREE, [(20,), (3, 3)])
    others = random_parts(THREE, [(20,), (3, 3)], seed=1)
    with np.errstate(over="ignore"):
        moved = {
            "ada": parts["ada"],
            "bea": [a + b for a, b in zip(parts["bea"], others["bea"], strict=True)],
            "cleo": [a - b for a, b in zip(parts["cleo"], others["bea"], strict=True)],
        }
    seen = received_by("ada", parts)
    assert received_by("ada", moved) == seen
    assert received_by("ada", others) != seen


# Keys and signatures.


def identities(names):
    private = {name: Ed25519PrivateKey.generate() for name in names}

    def verify(name, signature, data):
        private[name].public_key().verify(signature, data)

    return lambda name, context=CONTEXT: Participant(name, names, context, private[name].sign, verify)


def changing(kind, change, to=None):
    """What makes a server (or, with `to` a client's name, a client) send other messages of a kind."""

    def opened(to_client, to_server):
        if to in (None, to_client.name):
            spoil(to_client, kind, change)

    return opened


def spoil(peer, kind, change):
    """Have this end of a session send what `change` makes of messages of a kind, None for none."""
    put = peer._put

    async def changed(frame):
        payload = frame[HEADER:]
        try:
            message = decode(payload, [kind])
        except ValueError:
            return await put(frame)
        other = change(message)
        return None if other is None else await put(frame[:HEADER] + encode(other))

    peer._put = changed


def flipped(data, byte=0):
    return data[:byte] + bytes([data[byte] ^ 1]) + data[byte + 1 :]


PARTS = random_parts(THREE, [(5,)])


def keys_with(change):
    return lambda m: ClientKeys(*change(m.public_keys, m.signatures))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k, s: ([*k[:2], flipped(k[2])], s), "an invalid key or signature of cleo"),
        (lambda k, s: (k, [*s[:2], flipped(s[2])]), "an invalid key or signature of cleo"),
        (lambda k, s: (k, [s[0], s[2], s[1]]), "an invalid key or signature of (bea|cleo)"),
        (lambda k, s: (k, [b"", b"", b""]), "an invalid key or signature of bea"),
        (lambda k, s: ([*k[:2], bytes(32)], s), "an invalid key or signature of cleo"),
        (lambda k, s: ([flipped(k[0]), *k[1:]], s), "another key than this client's own"),
        (lambda k, s: (k[:2], s[:2]), "another number of clients"),
        (lambda k, s: ([*k, k[0]], [*s, s[0]]), "another number of clients"),
    ],
)
def test_a_changed_key_or_signature_is_refused_and_named(change, words):
    own = identities(THREE)
    with pytest.raises(
        PeerError, match=f"^server broke the protocol: it sent ClientKeys (with|of) {words}$"
    ) as e:
        over_server(
            adding_all(PARTS),
            opened=changing(ClientKeys, keys_with(change), "ada"),
            made=lambda name, peer: MaskingAdder(peer, own(name)),
        )
    assert "\n" not in str(e.value)


def test_signed_keys_are_accepted_and_those_of_another_run_refused():
    own = identities(THREE)
    ends = over_server(adding_all(PARTS), made=lambda name, peer: MaskingAdder(peer, own(name)))
    assert all(np.array_equal(ends[name][0], sums(PARTS)[0]) for name in THREE)
    with pytest.raises(PeerError, match="an invalid key or signature of"):
        over_server(
            adding_all(PARTS),
            made=lambda name, peer: MaskingAdder(
                peer, own(name, b"an earlier run" if name == "bea" else CONTEXT)
            ),
        )


def test_the_error_of_who_verifies_passes_through():
    def verify(name, signature, data):
        raise VflError(f"no certificate of {name} is pinned")

    with pytest.raises(VflError, match=r"^no certificate of \w+ is pinned$"):
        over_server(
            adding_all(PARTS),
            made=lambda name, peer: MaskingAdder(
                peer, Participant(name, THREE, CONTEXT, lambda data: b"", verify)
            ),
        )


# Hostile servers.


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (AddingBegin, lambda m: AddingBegin(0, m.clients[:2]), "without a client that the job needs"),
        (AddingBegin, lambda m: AddingBegin(0, m.clients[:1]), "without a client that the job needs"),
        (AddingBegin, lambda m: AddingBegin(0, m.clients[1:]), "other clients than there are"),
        (AddingBegin, lambda m: AddingBegin(0, m.clients[::-1]), "other clients than there are"),
        (AddingBegin, lambda m: AddingBegin(0, [*m.clients, "eve"]), "other clients than there are"),
        (AddingBegin, lambda m: AddingBegin(0, []), "other clients than there are"),
        (MaskedTotal, lambda m: MaskedTotal(m.step + 1, m.words), "another step or size"),
        (MaskedTotal, lambda m: MaskedTotal(m.step, m.words[:-8]), "another step or size"),
        (MaskedTotal, lambda m: MaskedTotal(m.step, m.words + bytes(8)), "another step or size"),
        (MaskedTotal, lambda m: MaskedTotal(m.step, b""), "another step or size"),
    ],
)
def test_what_a_server_cannot_send_is_refused(kind, change, words):
    with pytest.raises(PeerError, match=f"^server broke the protocol: it sent an? .*{words}$"):
        over_server(adding_all(PARTS), opened=changing(kind, change, "ada"))


def test_a_secret_that_the_server_makes_up_is_refused():
    change = lambda m: SealedSecret(flipped(m.sealed))  # noqa: E731
    with pytest.raises(PeerError, match=r"^server .* a SealedSecret that ada has not sealed$"):
        over_server(adding_all(PARTS), opened=changing(SealedSecret, change, "bea"))


@pytest.mark.parametrize("byte", [0, 7, 8 * 4 + 7, 8 * 5, -1], ids=str)
@pytest.mark.parametrize("to", ["bea", None], ids=["one client", "all"])
def test_a_total_that_was_changed_is_refused(byte, to):
    """In any bit: the highest of a word among them, which half of all linear tags would miss."""

    def change(message):
        data = bytearray(message.words)
        data[byte] ^= 0x80
        return MaskedTotal(message.step, bytes(data))

    with pytest.raises(PeerError, match=r"^server or another client broke the protocol: a total is not"):
        over_server(adding_all(PARTS), opened=changing(MaskedTotal, change, to))


@pytest.mark.parametrize("kind", [MaskedPart, MaskedTotal])
def test_words_of_an_earlier_step_are_refused(kind):
    """Sent again under the number of a later one, by a client or by the server."""
    kept = []

    def replay(message):
        kept.append(message.words)
        if kind is MaskedPart:
            return MaskedPart(message.step, message.about, message.of, kept[0])
        return MaskedTotal(message.step, kept[0])

    def opened(to_client, to_server):
        if to_client.name == "ada":
            spoil(to_server if kind is MaskedPart else to_client, kind, replay)

    twice = {name: [own[0], own[0]] for name, own in PARTS.items()}
    with pytest.raises(PeerError, match="a total is not the sum of what the clients added"):
        over_server(adding_all(twice), opened=opened)
    assert len(kept) == 2


def test_an_attempt_that_is_over_is_not_begun_again():
    sent = []

    def change(message):
        sent.append(message)
        return AddingBegin(0, message.clients)

    def opened(to_client, _):
        if to_client.name == "ada":
            spoil(to_client, AddingBegin, change)
            spoil(to_client, MaskedTotal, lambda message: AddingBegin(0, sent[0].clients))

    with pytest.raises(PeerError, match="an AddingBegin with other clients than there are"):
        over_server(adding_all(PARTS), opened=opened)


def test_a_server_that_leaves_a_part_out_shows_nothing():
    """It gets numbers that are uniform, and clients see it."""
    change = lambda m: MaskedPart(m.step, m.about, m.of, bytes(len(m.words)))  # noqa: E731

    def opened(to_client, to_server):
        if to_client.name == "cleo":
            spoil(to_server, MaskedPart, change)

    with pytest.raises(PeerError, match="a total is not the sum of what the clients added"):
        over_server(adding_all(PARTS), opened=opened)


@given(st.data())
@settings(max_examples=30)
def test_tags_find_what_is_changed(data):
    """Each change of a total that is not zero changes about half of the tags."""
    size = data.draw(st.integers(1, 50))
    change = np.array(
        data.draw(st.lists(int64s, min_size=size, max_size=size).filter(any)), np.int64
    ).view(np.uint64)
    key = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2**64, size, np.uint64)
    assert 8 < np.count_nonzero(tags(change, key)) <= TAGS  # fewer: once in 10^9
    of_bits = [change[(key >> np.uint64(j)) & np.uint64(1) == 1].sum() for j in range(TAGS)]
    assert tags(change, key).tolist() == of_bits
    words = np.arange(size, dtype=np.uint64)
    assert np.array_equal(tags(words + change, key) - tags(words, key), tags(change, key))


# Hostile clients, and clients out of step.


def opened_for(client, kind, change):
    def opened(to_client, to_server):
        if to_client.name == client:
            spoil(to_server, kind, change)

    return opened


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (ClientKey, lambda m: ClientKey(0, m.public_key[1:], b""), "a ClientKey with a key or sig"),
        (ClientKey, lambda m: ClientKey(0, m.public_key, bytes(8193)), "a ClientKey with a key or sig"),
        (ClientKey, lambda m: ClientKey(3, m.public_key, b""), "an attempt that has not begun"),
        (GroupSecret, lambda m: GroupSecret(m.sealed[1:]), "another number of clients"),
        (MaskedPart, lambda m: MaskedPart(m.step + 1, m.about, m.of, m.words), "of another step"),
        (MaskedPart, lambda m: MaskedPart(m.step, m.about, 0, m.words), "too few or too many"),
        (MaskedPart, lambda m: MaskedPart(m.step, m.about, 2**40, m.words), "too few or too many"),
        (MaskedPart, lambda m: MaskedPart(m.step, m.about, m.of + 1, m.words), "of another total"),
        (MaskedPart, lambda m: MaskedPart(m.step, bytes(16), m.of, m.words), "of another total"),
        (MaskedPart, lambda m: MaskedPart(m.step, m.about, m.of, m.words[1:]), "of the wrong size"),
        (MaskedPart, lambda m: AddingEnd(), "of another total"),
    ],
)
def test_what_a_client_cannot_send_is_refused_and_named(kind, change, words):
    with pytest.raises(PeerError, match=rf"^ada broke the protocol: it sent .*{words}") as raised:
        over_server(adding_all(PARTS), opened=opened_for("ada", kind, change))
    assert "\n" not in str(raised.value)


def test_clients_out_of_step_are_named():
    def role(shape, what):
        async def run(adder):
            await adder.total(np.zeros(3, np.int64), "counts")
            return await adder.total(np.zeros(shape, np.int64), what)

        return run

    due = role((2, 3), "level 2 of tree 7")
    for other in (role((2, 3), "level 3 of tree 7"), role((3, 2), "level 2 of tree 7"), role(9, "x")):
        with pytest.raises(
            PeerError, match=r"^cleo broke the protocol: it sent a part of another total"
        ):
            over_server({"ada": due, "bea": due, "cleo": other})
        with pytest.raises(PeerError, match=r"^ada or cleo broke the protocol: they add to different"):
            over_server({"ada": due, "cleo": other})
        with pytest.raises(ValueError, match="different totals"):
            in_plain({"ada": due, "cleo": other})
    different = {name: role((k + 1,), "x") for k, name in enumerate(THREE)}
    with pytest.raises(PeerError, match=r"^the clients ada, bea, cleo add to different totals$"):
        over_server(different)


def test_a_server_that_does_not_look_adds_noise():
    """Clients that add to different totals get none."""
    about = []

    def change(message):
        about.append(message.about)
        return MaskedPart(message.step, about[0], message.of, message.words)

    def opened(to_client, to_server):
        spoil(to_server, MaskedPart, change)

    roles = {"ada": adding_all({"ada": [np.arange(5)]}, "apples")["ada"]}
    roles |= adding_all({"bea": [np.arange(5)]}, "pears")
    with pytest.raises(PeerError, match="a total is not the sum of what the clients added"):
        over_server(roles, opened=opened)


def test_an_array_that_cannot_be_added():
    async def floats(adder):
        await adder.total(np.zeros(3), "numbers")

    async def many(adder):
        await adder.total(np.broadcast_to(np.int64(0), (1 << 25,)), "numbers")

    with pytest.raises(ValueError, match="int64"):
        over_server({"ada": floats, "bea": floats})
    with pytest.raises(ValueError, match="too many to be added at once"):
        over_server({"ada": many, "bea": many})
    with pytest.raises(ValueError, match="two clients"):
        MaskingAdder(MemoryPeer.pair("server", "ada")[1], Participant("ada", ("ada",), CONTEXT))
    with pytest.raises(ValueError, match="2 to 64 clients"):
        asyncio.run(serve_totals([]))


# Steps that are done.


@pytest.mark.parametrize(
    ("newest", "common"), [((3, 3, 3), 3), ((3, 4, 3), 3), ((5, 4, 5), 4), ((0, 0, 1), 0)]
)
def test_the_last_step_that_all_have_done(newest, common):
    def role(own):
        return lambda adder: common_step(adder, own)

    roles = {name: role(own) for name, own in zip(THREE, newest, strict=True)}
    assert set(in_plain(roles).values()) == {common}
    roles["ada"] = role(newest[0] + 2)
    with pytest.raises(ModelError, match="checkpoints are of different steps"):
        in_plain(roles)


def test_no_total_sends_a_client_back_to_the_first_step():
    """Whatever a server adds to it; of one step alone, as a client that was killed may lack the last."""

    class Shifted:
        name, clients = "ada", THREE

        def __init__(self, step):
            self.step = step

        async def total(self, own, what):
            return np.array([3 * self.step, 3 * self.step**2], np.int64)

    assert asyncio.run(common_step(Shifted(8), 9)) == 8
    for step in (0, 1, 7, 10):
        with pytest.raises(ModelError, match="checkpoints are of different steps"):
            asyncio.run(common_step(Shifted(step), 9))
