from __future__ import annotations

from lab.peers.charon_keys import tables

IKE = """\
08[MGR] checkin IKEv2 SA lab[1] with SPIs df68e0820c8d922f_i 0000000000000000_r
13[ENC] parsed IKE_SA_INIT response 0 [ SA KE No ]
13[CFG] selected proposal: IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256
13[IKE] Sk_ai secret => 32 bytes @ 0x7f8b3c002190
13[IKE]    0: 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F  ................
13[IKE]   16: 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F  ................
13[IKE] Sk_ar secret => 32 bytes @ 0x7f8b3c0021b0
13[IKE]    0: 20 21 22 23 24 25 26 27 28 29 2A 2B 2C 2D 2E 2F   !"#$%&'()*+,-./
13[IKE]   16: 30 31 32 33 34 35 36 37 38 39 3A 3B 3C 3D 3E 3F  0123456789:;<=>?
13[IKE] Sk_ei secret => 16 bytes @ 0x7f8b3c0021d0
13[IKE]    0: 40 41 42 43 44 45 46 47 48 49 4A 4B 4C 4D 4E 4F  @ABCDEFGHIJKLMNO
13[IKE] Sk_er secret => 16 bytes @ 0x7f8b3c0021e0
13[IKE]    0: 50 51 52 53 54 55 56 57 58 59 5A 5B 5C 5D 5E 5F  PQRSTUVWXYZ[\\]^_
14[IKE] a line of another thread
13[MGR] checkin IKEv2 SA lab[1] with SPIs df68e0820c8d922f_i 8c3f851ff526355b_r
""".splitlines()
CHILD = """\
15[ENC] parsed {exchange} {message} 1 [ IDr AUTH SA TSi TSr ]
15[CHD]   using AES_CBC for encryption
15[CHD]   using HMAC_SHA1_96 for integrity
15[CHD] encryption initiator key => 16 bytes @ 0x7f8b38003070
15[CHD]    0: 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11  ................
15[CHD] encryption responder key => 16 bytes @ 0x7f8b38004500
15[CHD]    0: 22 22 22 22 22 22 22 22 22 22 22 22 22 22 22 22  ................
15[CHD] integrity initiator key => 20 bytes @ 0x7f8b38004500
15[CHD]    0: 33 33 33 33 33 33 33 33 33 33 33 33 33 33 33 33  ................
15[CHD]   16: 33 33 33 33                                      ....
15[CHD] integrity responder key => 20 bytes @ 0x7f8b38004500
15[CHD]    0: 44 44 44 44 44 44 44 44 44 44 44 44 44 44 44 44  ................
15[CHD]   16: 44 44 44 44                                      ....
15[CHD] adding inbound ESP SA
15[CHD]   SPI 0x1bd1778e, src 203.0.113.2 dst 10.1.0.2
15[CHD] adding outbound ESP SA
15[CHD]   SPI 0x67505d99, src 10.1.0.2 dst 203.0.113.2
"""


def child(message: str, exchange: str = "IKE_AUTH") -> list[str]:
    return CHILD.format(message=message, exchange=exchange).splitlines()


def test_the_keys_of_an_ike_sa_wait_for_both_spis() -> None:
    octets = bytes(range(0x60)).hex()
    assert tables(IKE) == {
        "ikev2_decryption_table": (
            f'df68e0820c8d922f,8c3f851ff526355b,{octets[128:160]},{octets[160:192]},"AES-CBC-128 [RFC3602]",'
            f'{octets[:64]},{octets[64:128]},"HMAC_SHA2_256_128 [RFC4868]"\n'
        )
    }
    assert tables(IKE[:-1]) == {}


def test_the_initiator_receives_with_the_keys_of_the_responder() -> None:
    inbound, outbound = tables(child("response"))["esp_sa"].splitlines()
    assert inbound == (
        f'"IPv4","*","10.1.0.2","0x1bd1778e","AES-CBC [RFC3602]","0x{"22" * 16}",'
        f'"HMAC-SHA-1-96 [RFC2404]","0x{"44" * 20}"'
    )
    assert f'"0x67505d99","AES-CBC [RFC3602]","0x{"11" * 16}"' in outbound
    inbound, outbound = tables(child("request", "QUICK_MODE"))["esp_sa"].splitlines()
    assert "11" * 16 in inbound
    assert "22" * 16 in outbound


def test_phase_1_needs_the_cookie_and_the_key() -> None:
    log = [
        "06[IKE] encryption key Ka => 16 bytes @ 0x7fd95c0160d0",
        "06[IKE]    0: 40 41 42 43 44 45 46 47 48 49 4A 4B 4C 4D 4E 4F  @ABCDEFGHIJKLMNO",
        "06[MGR] checkin IKEv1 SA lab[1] with SPIs e33787052016560b_i 374f109c883f075a_r",
        "06[MGR] checkin IKEv1 SA lab[1] with SPIs e33787052016560b_i 374f109c883f075a_r",
    ]
    key = bytes(range(0x40, 0x50)).hex()
    assert tables(log) == {"ikev1_decryption_table": f"e33787052016560b,{key}\n"}


def test_what_wireshark_has_no_name_for_is_left_out() -> None:
    assert tables([line.replace("AES_CBC", "CHACHA20_POLY1305") for line in child("response")]) == {}
    assert tables(["", "no line of charon", "15[CHD]   SPI 0x1bd1778e, src 10.0.0.1 dst 10.0.0.2"]) == {}
