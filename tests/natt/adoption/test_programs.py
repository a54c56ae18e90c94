"""The filters to the octet, and what they decide."""

import random

import pytest

from lab.natt.adoption.bpf import LOAD_WORD, Assembler
from lab.natt.adoption.demultiplexer import OURS, USERS, demultiplexer
from lab.natt.adoption.trap import ALLOW, ARCHITECTURES, NOTIFY, Call, trap
from lab.natt.wire import KEEPALIVE, Encap, Kind, Profile, classify

from .interpreter import run_on_call, run_on_packet

X86, ARM = ARCHITECTURES["x86_64"], ARCHITECTURES["aarch64"]
FLAGS = [(encap, profile) for profile in Profile for encap in profile.encaps if encap is not Encap.NONE]


def listed(program: bytes) -> list[str]:
    return [program[at : at + 8].hex() for at in range(0, len(program), 8)]


def test_trap_of_x86_64_to_the_octet():
    assert listed(trap(X86)) == [
        "2000000004000000",  # architecture
        "150000073e0000c0",  # not x86-64: 9
        "2000000000000000",  # number
        "15001f0031000000",  # bind: 35
        "15001e0014000000",  # writev: 35
        "150004002c000000",  # sendto: 10
        "1500090029000000",  # socket: 16
        "15000a0036000000",  # setsockopt: 18
        "1500140037000000",  # getsockopt: 29
        "060000000000ff7f",  # 9: SECCOMP_RET_ALLOW
        "2000000030000000",  # 10: destination, lower half
        "1500001600000000",
        "2000000034000000",  # upper half
        "1500001400000000",
        "2000000020000000",  # length
        "4500121307000000",  # a multiple of 8: 35, otherwise 34
        "2000000010000000",  # 16: family
        "150011100f000000",  # AF_KEY: 35
        "2000000018000000",  # 18: level
        "1500030011000000",  # IPPROTO_UDP
        "1500040000000000",  # IPPROTO_IP
        "1500050029000000",  # IPPROTO_IPV6
        "060000000000ff7f",
        "2000000020000000",  # name
        "15000a0964000000",  # UDP_ENCAP
        "2000000020000000",
        "1500080710000000",  # IP_IPSEC_POLICY
        "2000000020000000",
        "1500060522000000",  # IPV6_IPSEC_POLICY
        "2000000018000000",  # 29: level
        "1500010011000000",
        "060000000000ff7f",
        "2000000020000000",
        "1500010064000000",
        "060000000000ff7f",  # 34: SECCOMP_RET_ALLOW
        "060000000000c07f",  # 35: SECCOMP_RET_USER_NOTIF
    ]


def test_trap_of_aarch64_differs_in_numbers_alone():
    changes = {
        1: "15000007b70000c0",
        3: "15001f00c8000000",
        4: "15001e0042000000",
        5: "15000400ce000000",
        6: "15000900c6000000",
        7: "15000a00d0000000",
        8: "15001400d1000000",
    }
    wanted = [changes.get(at, line) for at, line in enumerate(listed(trap(X86)))]
    assert listed(trap(ARM)) == wanted


@pytest.mark.parametrize("architecture", [X86, ARM], ids=["x86_64", "aarch64"])
class TestTrap:
    def decide(self, architecture, call, *arguments):
        return run_on_call(trap(architecture), architecture.audit, architecture.numbers[call], *arguments)

    def test_key_sockets_alone_of_all_families(self, architecture):
        answers = {family: self.decide(architecture, Call.SOCKET, family, 3, 2) for family in range(50)}
        assert [family for family, answer in answers.items() if answer == NOTIFY] == [15]
        assert set(answers.values()) == {ALLOW, NOTIFY}

    def test_int_arguments_count_by_their_lower_half(self, architecture):
        assert self.decide(architecture, Call.SOCKET, 0xDEADBEEF << 32 | 15, 3, 2) == NOTIFY

    def test_every_bind(self, architecture):
        assert self.decide(architecture, Call.BIND, 3) == NOTIFY

    def test_messages_of_whole_words(self, architecture):
        assert self.decide(architecture, Call.WRITEV, 3, 0x1000, 1) == NOTIFY
        lengths = [
            length
            for length in range(100)
            if self.decide(architecture, Call.SENDTO, 3, 0x1000, length) == NOTIFY
        ]
        assert lengths == list(range(0, 100, 8))

    def test_datagrams_with_a_destination(self, architecture):
        for destination in (0x7FFF12345678, 1 << 32, 1):
            assert self.decide(architecture, Call.SENDTO, 3, 0x1000, 16, 0, destination, 16) == ALLOW

    def test_options(self, architecture):
        for call, wanted in (
            (Call.SETSOCKOPT, {(17, 100), (0, 16), (41, 34)}),
            (Call.GETSOCKOPT, {(17, 100)}),
        ):
            found = {
                (level, name)
                for level in (0, 1, 6, 17, 41, 50)
                for name in range(120)
                if self.decide(architecture, call, 3, level, name) == NOTIFY
            }
            assert found == wanted

    def test_every_other_call(self, architecture):
        program = trap(architecture)
        trapped = set(architecture.numbers.values())
        for number in set(range(500)) - trapped:
            assert run_on_call(program, architecture.audit, number, 15, 17, 100) == ALLOW

    def test_other_calls_are_allowed_without_a_look_at_their_arguments(self, architecture):
        """What lets Linux keep a bitmap of calls that it need not run the filter for."""
        program = trap(architecture)
        for number in set(range(500)) - set(architecture.numbers.values()):
            seen = []
            run_on_call(program, architecture.audit, number, seen=seen)
            assert {value for operation, value in seen if operation == LOAD_WORD} == {0, 4}
            # Before Linux 5.11, which has none, these are run for every call.
            assert len(seen) <= 10

    def test_another_abi_passes(self, architecture):
        for call in Call:
            number = architecture.numbers[call]
            for audit in (0x40000003, 0x40000028, X86.audit ^ ARM.audit):
                assert run_on_call(trap(architecture), audit, number, 15, 17, 100) == ALLOW

    def test_numbers_lead_back(self, architecture):
        assert {architecture.call(number) for number in architecture.numbers.values()} == set(Call)
        assert architecture.call(0) is None


def test_x32_calls_pass():
    assert run_on_call(trap(X86), X86.audit, 0x40000000 | 41, 15, 3, 2) == ALLOW


@pytest.mark.parametrize(("encap", "profile"), FLAGS, ids=lambda one: one.name)
class TestDemultiplexer:
    def expected(self, payload, encap, profile):
        return USERS if classify(payload, encap, profile).kind is Kind.USER else OURS

    def test_borders(self, encap, profile):
        program = demultiplexer(encap, profile)
        heads = (b"", b"\0" * 3 + b"\1", b"\0" * 4, b"\0" * 7 + b"\1", b"\0" * 8, b"\1\0\0\0", b"\xff" * 8)
        payloads = [KEEPALIVE, b"\xfe", b""]
        payloads += [(head + bytes(64))[:length] for head in heads for length in range(40)]
        payloads += [(head + b"\x5a" * 64)[:length] for head in heads for length in range(40)]
        for payload in payloads:
            assert run_on_packet(program, payload) == self.expected(payload, encap, profile), payload.hex()

    def test_anything(self, encap, profile):
        program, dice = demultiplexer(encap, profile), random.Random(3948)
        for _ in range(3000):
            payload = bytearray(dice.randbytes(dice.choice((0, 1, 2, 4, 8, 9, 16, 17, 28, 1400))))
            zeros = dice.choice((0, 0, 1, 3, 4, 7, 8))
            payload[:zeros] = bytes(min(zeros, len(payload)))
            assert run_on_packet(program, bytes(payload)) == self.expected(bytes(payload), encap, profile)


def test_demultiplexers_of_linux_to_the_octet():
    assert listed(demultiplexer(Encap.ESPINUDP, Profile.LINUX)) == [
        "8000000000000000",  # length
        "1500030001000000",  # 1: 5
        "2500000508000000",  # up to 8: the user's
        "2000000000000000",  # first word
        "1500030200000000",  # 0: the user's
        "3000000000000000",  # 5: the octet
        "15000001ff000000",
        "0600000001000000",  # 7: ours
        "0600000000000000",  # 8: the user's
    ]
    assert listed(demultiplexer(Encap.ESPINUDP_NON_IKE, Profile.LINUX)) == [
        "8000000000000000",
        "1500050001000000",
        "2500000710000000",  # up to 16: the user's
        "2000000000000000",
        "1500000500000000",  # not 0: the user's
        "2000000004000000",
        "1500020300000000",
        "3000000000000000",
        "15000001ff000000",
        "0600000001000000",
        "0600000000000000",
    ]


def test_no_demultiplexer_without_a_flag():
    with pytest.raises(ValueError, match="rfc3948 has no demultiplexer for none"):
        demultiplexer(Encap.NONE, Profile.RFC3948)
    with pytest.raises(ValueError, match="freebsd11 has no demultiplexer for espinudp-non-ike"):
        demultiplexer(Encap.ESPINUDP_NON_IKE, Profile.FREEBSD11)


class TestAssembler:
    def test_a_label_that_is_nowhere(self):
        program = Assembler()
        program.jump_if_equal(1, "there")
        with pytest.raises(ValueError, match="label 'there' is nowhere"):
            program.octets()

    def test_a_jump_backwards(self):
        program = Assembler()
        program.label("start")
        program.load(LOAD_WORD)
        program.jump_if_equal(1, "start")
        with pytest.raises(ValueError, match="'start' is -2 instructions away"):
            program.octets()

    def test_a_jump_too_far(self):
        program = Assembler()
        program.jump_if_equal(1, "end")
        for _ in range(256):
            program.load(LOAD_WORD)
        program.label("end")
        program.give(0)
        with pytest.raises(ValueError, match="256 instructions away"):
            program.octets()
