import hashlib

from server.histories.pseudonyms import Pseudonyms


def test_a_pseudonym_is_a_keyed_hash_of_the_shopper():
    key = hashlib.blake2b(b"k" * 32).digest()
    wanted = hashlib.blake2b(b"user:ada", key=key, digest_size=16, person=b"shopper").hexdigest()
    assert Pseudonyms("k" * 32).of("user:ada") == wanted
    assert Pseudonyms("l" * 32).of("user:ada") != wanted
    assert Pseudonyms("k" * 32).of("visitor:ada") != wanted


def test_the_fingerprint_tells_keys_apart_and_is_no_shoppers():
    names = Pseudonyms("k" * 32)
    assert names.fingerprint == Pseudonyms("k" * 32).fingerprint != Pseudonyms("l" * 32).fingerprint
    assert names.fingerprint != names.of("")
