//! The one crypto provider and protocol version, and rustls' time taken from our clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azdr_env::{Clock, WallTime};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

/// What both sides speak: HTTP/2 and nothing else.
pub(crate) const ALPN: &[u8] = b"h2";

/// TLS 1.3 and nothing else.
pub(crate) const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// ring, always passed explicitly: the process-wide default panics once two providers are linked.
pub(crate) fn ring() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// rustls' view of an injected clock; without one, the operating system's time.
pub(crate) fn time_from(clock: Option<Arc<dyn Clock>>) -> Arc<dyn TimeProvider> {
    match clock {
        Some(clock) => Arc::new(ClockTime(clock)),
        None => Arc::new(DefaultTimeProvider),
    }
}

/// Times before 1970 count as 1970: no certificate is that old.
pub(crate) fn unix_time(wall: WallTime) -> UnixTime {
    let ms = u64::try_from(wall.unix_ms()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_millis(ms))
}

struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.wall()))
    }
}

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}
