//! One-time enrolment tokens.
//!
//! A token is 256 random bits that are shown once. Only its hash is stored, and looked up: there is
//! nothing to compare in constant time, and a stolen database enrols nobody.

use std::fmt;

use azdr_env::Ids;
use ring::digest::{SHA256, digest};

const PREFIX: &str = "azdr1-";
const SECRET_BYTES: usize = 32;

/// The length of every token, in bytes.
pub const TOKEN_LENGTH: usize = PREFIX.len() + 2 * SECRET_BYTES;

/// A token that was just made. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken(String);

impl EnrolmentToken {
    /// A fresh one. `ids` must be the operating system's.
    pub fn mint(ids: &dyn Ids) -> Self {
        Self(format!("{PREFIX}{}", ids.hex(SECRET_BYTES)))
    }

    /// The token, to be shown to whoever asked for it and to nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of_text(&self.0)
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolmentToken(…)")
    }
}

/// A text that no token can be. Does not say why: the caller is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not an enrolment token")]
pub struct BadToken;

/// The SHA-256 of a token, 64 hexadecimal digits: the key under which it is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(String);

impl TokenHash {
    /// The hash of what somebody presents.
    ///
    /// # Errors
    /// When it does not have a token's exact length, prefix and alphabet; then nothing is looked up.
    pub fn of_presented(text: &str) -> Result<Self, BadToken> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != TOKEN_LENGTH {
            return Err(BadToken);
        }
        let secret = text.strip_prefix(PREFIX).ok_or(BadToken)?;
        if !secret.bytes().all(lower_hex) {
            return Err(BadToken);
        }
        Ok(Self::of_text(text))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of_text(text: &str) -> Self {
        let hash = digest(&SHA256, text.as_bytes());
        Self(hash.as_ref().iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use azdr_env::{OsIds, SeededIds};

    use super::*;

    #[test]
    fn a_minted_token_is_found_by_its_hash() {
        let token = EnrolmentToken::mint(&OsIds);
        assert_eq!(token.expose().len(), TOKEN_LENGTH);
        assert_eq!(TokenHash::of_presented(token.expose()), Ok(token.hash()));
        assert_ne!(EnrolmentToken::mint(&OsIds), token);
        assert!(!token.hash().to_string().contains(&token.expose()[PREFIX.len()..]));
        assert_eq!(format!("{token:?}"), "EnrolmentToken(…)");
    }

    #[test]
    fn what_cannot_be_a_token_is_not_looked_up() {
        let good = EnrolmentToken::mint(&SeededIds::new(1)).expose().to_owned();
        let shorter = &good[..good.len() - 1];
        let umlaut = format!("{PREFIX}{}", "ä".repeat(SECRET_BYTES));
        assert_eq!(umlaut.len(), TOKEN_LENGTH);
        let bad = [
            "",
            shorter,
            &format!("{good}0"),
            &good.replace("azdr1-", "azdr2-"),
            &format!("{shorter}G"),
            &format!("{PREFIX}{}", "A".repeat(64)),
            &format!(" {shorter}"),
            &umlaut,
        ];
        for text in bad {
            assert_eq!(TokenHash::of_presented(text), Err(BadToken), "{text:?}");
        }
    }
}
