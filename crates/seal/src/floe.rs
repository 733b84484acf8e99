//! FLOE (C2SP FLOE.md): AES-256-GCM, HKDF-SHA-384, key commitment, random access.
