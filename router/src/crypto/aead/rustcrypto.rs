//! Owns the AEAD by RustCrypto, for where `ring` does not build.
use super::{OpenError, TAG_LEN};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

pub(super) struct Key(ChaCha20Poly1305);

impl Key {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(ChaCha20Poly1305::new(key.into()))
    }

    pub(super) fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.0
            .encrypt_inout_detached(&nonce.into(), aad, text.into())
            .expect("a packet is far below the cipher's 256 GiB")
            .into()
    }

    pub(super) fn open<'a>(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(OpenError)?;
        self.0
            .decrypt_inout_detached(&nonce.into(), aad, (&mut *text).into(), &(*tag).into())
            .map_err(|_| OpenError)?;
        Ok(text)
    }
}
