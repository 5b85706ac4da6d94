"""The encryption schemes by the name that a job gives them."""

from typing import Final

from vfl.crypto import okamoto_uchiyama, paillier
from vfl.crypto.ciphertexts import PrivateKey, PublicKey

PUBLIC_KEYS: Final[dict[str, type[PublicKey]]] = {
    "paillier": paillier.PublicKey,
    "ou": okamoto_uchiyama.PublicKey,
}
PRIVATE_KEYS: Final[dict[str, type[PrivateKey]]] = {
    "paillier": paillier.PrivateKey,
    "ou": okamoto_uchiyama.PrivateKey,
}
