//! Keyed signatures: on tokens, SAS URLs and polling URLs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::Value;

/// Signs with a key that belongs to the state directory.
pub(crate) struct Signer {
    key: hmac::Key,
    /// The claims of tokens that were found to be ours: they come with every request.
    tokens: Mutex<BTreeMap<String, Arc<Value>>>,
}

/// How many tokens are remembered.
const REMEMBERED: usize = 64;

impl Signer {
    pub(crate) fn new(key: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        Self { key, tokens: Mutex::default() }
    }

    /// The signature of `text`, fit for URLs.
    pub(crate) fn sign(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, text.as_bytes()))
    }

    /// Whether `signature` is ours, for this text.
    pub(crate) fn verify(&self, text: &str, signature: &str) -> bool {
        URL_SAFE_NO_PAD
            .decode(signature)
            .is_ok_and(|tag| hmac::verify(&self.key, text.as_bytes(), &tag).is_ok())
    }

    /// The claims of a token that was signed here.
    pub(crate) fn claims(&self, token: &str) -> Option<Arc<Value>> {
        let mut known = self.tokens.lock().expect("no code panics while holding this lock");
        if let Some(claims) = known.get(token) {
            return Some(claims.clone());
        }
        let (signed, signature) = token.rsplit_once('.')?;
        if !self.verify(&format!("token {signed}"), signature) {
            return None;
        }
        let claims = from_base64url(signed.split_once('.')?.1)?;
        let claims: Arc<Value> = Arc::new(serde_json::from_slice(&claims).ok()?);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(token.to_owned(), claims.clone());
        Some(claims)
    }
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
