//! The handshake: Noise IKpsk2 with ML-KEM-768, cookies and timestamps, without any I/O.

/// Private, public and pre-shared keys.
pub mod keys;
