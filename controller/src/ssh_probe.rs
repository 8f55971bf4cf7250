//! Logs in to a machine over SSH, as a person would, to see whether it can be worked with.
//!
//! An open port proves nothing and a banner little: a server whose disks are gone still shows one. So the
//! probe logs in, writes a random token to a file, reads it back in another command, and removes the file.
//! It goes no further than the host key where that is known to be another machine's.
//!
//! Whoever answers is not trusted: what is run are fixed words, what comes back is bounded, and every wait
//! has its limit, after which the connection is closed whatever it was doing. What it all means is decided
//! in `azdr_domain::ssh_evidence`.

use std::borrow::Cow;
use std::fmt;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use azdr_domain::ssh_evidence::{Attempt, End, HostKeys};
use azdr_env::Clock;
use russh::client::{self, AuthResult, Handle};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect, SshId};
use tokio::net::TcpStream;

/// Most that is read of a command's output.
const MOST_OUTPUT: usize = 1024;
/// Room for output that the server may fill before it has to wait.
const WINDOW: u32 = 4096;
/// How long the server may take to hear the farewell.
const FAREWELL: Duration = Duration::from_secs(1);

/// Takes the token from its input. `$HOME` is on the machine's disks, and the probe's own. One name for all
/// probes: what one leaves that is killed in between, the next one replaces and removes.
const WRITE: &str = r#"/bin/sh -c 'umask 077; cat >"$HOME/.azdr-probe"'"#;
/// Prints the token and which boot this is. The file goes whatever becomes of the reading.
const READ: &str = r#"/bin/sh -c 'cat "$HOME/.azdr-probe"; rm -f "$HOME/.azdr-probe"; cat /proc/sys/kernel/random/boot_id'"#;

/// A private key for probes. Never shown.
#[derive(Clone)]
pub struct ProbeKey(Arc<PrivateKey>);

impl fmt::Debug for ProbeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeKey(…)")
    }
}

impl ProbeKey {
    /// What [`ProbeKey::parse`] takes.
    pub const ALLOWED: &str = "it must be an OpenSSH private key, Ed25519 or ECDSA, without a passphrase: \
                               ssh-keygen -t ed25519 -N '' makes one";

    /// Reads a key as `ssh-keygen` writes it. `None` for what is not [allowed](Self::ALLOWED): nobody is there
    /// to enter a passphrase, and RSA needs a library that nothing else here does.
    pub fn parse(text: &str) -> Option<Self> {
        let key = PrivateKey::from_openssh(text).ok().filter(|key| !key.is_encrypted())?;
        let is_known = matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { .. });
        is_known.then(|| Self(Arc::new(key)))
    }
}

/// How to log in.
#[derive(Clone, Debug)]
pub struct ProbeLogin {
    /// As whom.
    pub user: String,
    /// With what.
    pub key: ProbeKey,
    /// Until there is a connection.
    pub connect_limit: Duration,
    /// From there until the token is back.
    pub login_limit: Duration,
}

/// What has been seen, should time be over.
#[derive(Default)]
struct Seen {
    host_key: Option<String>,
    /// What the server wants whoever logs in to read.
    words: String,
    is_logged_in: bool,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(seen: &Shared) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProbeLogin {
    /// Tries once. `token` is a word of letters and digits, and not a word that anybody could guess.
    ///
    /// Takes at most the two limits, and a second. Dropping it closes the connection.
    pub async fn attempt(
        &self,
        address: SocketAddr,
        keys: &HostKeys,
        token: &str,
        clock: &dyn Clock,
    ) -> Attempt {
        let seen = Shared::default();
        let end = match within(self.connect_limit, TcpStream::connect(address)).await {
            Some(Ok(stream)) => self.with_connection(stream, keys, token, clock, &seen).await,
            Some(Err(error)) => End::NoAnswer(error.to_string()),
            None => End::NoAnswer(format!("no connection {}", too_long(self.connect_limit))),
        };
        let host_key = lock(&seen).host_key.take();
        Attempt { address, host_key, end }
    }

    async fn with_connection(
        &self,
        stream: TcpStream,
        keys: &HostKeys,
        token: &str,
        clock: &dyn Clock,
        seen: &Shared,
    ) -> End {
        let login = self.log_in(stream, keys, token, clock, seen);
        let problem = match within(self.login_limit, login).await {
            Some(Ok(end)) => return end,
            Some(Err(error)) => error.to_string(),
            None => format!("no answer {}", too_long(self.login_limit)),
        };
        // Whoever lets the probe in and then fails has failed; before that nobody knows. A machine that keeps
        // accounts out while it boots says so in words, and hangs up.
        let seen = lock(seen);
        match seen.words.trim() {
            _ if seen.is_logged_in => End::NoToken(problem),
            "" => End::NoAnswer(problem),
            words => End::NoAnswer(format!("{problem}; it said: {words}")),
        }
    }

    async fn log_in(
        &self,
        stream: TcpStream,
        keys: &HostKeys,
        token: &str,
        clock: &dyn Clock,
        seen: &Shared,
    ) -> Result<End, russh::Error> {
        let begun = clock.monotonic();
        // Small packets in turns: none is worth waiting for another.
        stream.set_nodelay(true)?;
        let (stream, _hangup) = Hangup::at_the_end_of(stream)?;
        let client = Client { keys: keys.clone(), seen: seen.clone() };
        let mut session = match client::connect_stream(configuration(), stream, client).await {
            Err(russh::Error::UnknownKey) => return Ok(End::OtherHostKey),
            session => session?,
        };
        let key = PrivateKeyWithHashAlg::new(self.key.0.clone(), None);
        match session.authenticate_publickey(&self.user, key).await? {
            AuthResult::Success => lock(seen).is_logged_in = true,
            // A connection that was lost meanwhile looks the same, but for this.
            AuthResult::Failure { .. } if session.is_closed() => {
                return Err(russh::Error::Disconnect);
            }
            AuthResult::Failure { .. } => return Ok(End::Refused),
        }
        let end = match self.token_back(&session, token).await? {
            Ok(boot_id) => End::TokenBack { boot_id, took: clock.monotonic().since(begun) },
            Err(why) => End::NoToken(why),
        };
        let farewell = async {
            let _ = session.disconnect(Disconnect::ByApplication, "", "").await;
            let _ = session.await;
        };
        within(FAREWELL, farewell).await;
        Ok(end)
    }

    /// Which boot has given it back, or why it has not come back.
    async fn token_back(
        &self,
        session: &Handle<Client>,
        token: &str,
    ) -> Result<Result<String, String>, russh::Error> {
        let written = run(session, WRITE, &format!("{token}\n")).await?;
        if let Some(problem) = written.problem() {
            return Ok(Err(format!("writing it: {problem}")));
        }
        let read = run(session, READ, "").await?;
        if read.is_too_much {
            return Ok(Err(format!("reading it: more than {MOST_OUTPUT} bytes of output")));
        }
        // What the account's own start files print comes first.
        let mut lines = read.output.lines().map(str::trim).skip_while(|line| *line != token);
        let Some(_) = lines.next() else {
            let problem = read.problem().unwrap_or_else(|| "something else was read".to_owned());
            return Ok(Err(format!("reading it: {problem}")));
        };
        Ok(Ok(lines.next().unwrap_or_default().to_owned()))
    }
}

fn too_long(limit: Duration) -> String {
    format!("within {} s", limit.as_secs_f64())
}

async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = what => Some(done),
        () = azdr_env::sleep(limit) => None,
    }
}

fn configuration() -> Arc<client::Config> {
    Arc::new(client::Config {
        client_id: SshId::Standard(Cow::Borrowed("SSH-2.0-azdr")),
        window_size: WINDOW,
        channel_buffer_size: 8,
        ..client::Config::default()
    })
}

/// The library's side of a connection runs by itself and ends with the connection: so that ends with us.
struct Hangup(std::net::TcpStream);

impl Hangup {
    fn at_the_end_of(stream: TcpStream) -> std::io::Result<(TcpStream, Self)> {
        let stream = stream.into_std()?;
        let twin = stream.try_clone()?;
        Ok((TcpStream::from_std(stream)?, Self(twin)))
    }
}

impl Drop for Hangup {
    fn drop(&mut self) {
        // It fails where there is no connection any more.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// What the library asks us.
struct Client {
    keys: HostKeys,
    seen: Shared,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn auth_banner(
        &mut self,
        banner: &str,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        let _ = Ran::take(&mut lock(&self.seen).words, banner.as_bytes());
        Ok(())
    }

    /// The server has proved that it has this key.
    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        let fingerprint = shown.public_key().fingerprint(HashAlg::Sha256).to_string();
        let allowed = self.keys.allow(&fingerprint);
        lock(&self.seen).host_key = Some(fingerprint);
        Ok(allowed)
    }
}

/// A command that was run.
#[derive(Default)]
struct Ran {
    output: String,
    errors: String,
    /// `None`: it was not told.
    status: Option<u32>,
    is_refused: bool,
    is_too_much: bool,
}

impl Ran {
    /// Why it did not succeed, if so.
    fn problem(&self) -> Option<String> {
        let words = self.errors.trim();
        match self.status {
            _ if self.is_refused => Some("the server runs no commands".to_owned()),
            _ if self.is_too_much => Some(format!("more than {MOST_OUTPUT} bytes of output")),
            Some(0) => None,
            None => Some(format!("it ended without an exit code {words}").trim_end().to_owned()),
            Some(code) => Some(format!("exit code {code} {words}").trim_end().to_owned()),
        }
    }

    /// Whether there is room for more.
    fn take(text: &mut String, data: &[u8]) -> bool {
        let room = MOST_OUTPUT.saturating_sub(text.len());
        text.push_str(&String::from_utf8_lossy(&data[..data.len().min(room)]));
        data.len() <= room
    }
}

/// Runs a command and waits for its end, or until it has said too much.
async fn run(session: &Handle<Client>, command: &str, input: &str) -> Result<Ran, russh::Error> {
    let mut channel = session.channel_open_session().await?;
    channel.exec(true, command).await?;
    let mut ran = Ran::default();
    let mut is_started = false;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Success if !is_started => {
                is_started = true;
                if !input.is_empty() {
                    channel.data(input.as_bytes()).await?;
                }
                channel.eof().await?;
            }
            ChannelMsg::Failure => ran.is_refused = true,
            ChannelMsg::Data { data } => ran.is_too_much |= !Ran::take(&mut ran.output, &data),
            ChannelMsg::ExtendedData { data, .. } => {
                ran.is_too_much |= !Ran::take(&mut ran.errors, &data);
            }
            ChannelMsg::ExitStatus { exit_status } => ran.status = Some(exit_status),
            ChannelMsg::Close => break,
            _ => {}
        }
        if ran.is_refused || ran.is_too_much {
            channel.close().await?;
            break;
        }
    }
    Ok(ran)
}

/// A key as `ssh-keygen` writes it.
#[cfg(test)]
pub(crate) fn new_key() -> String {
    use russh::keys::ssh_key::LineEnding;

    let mut rng = russh::keys::key::safe_rng();
    let key = PrivateKey::random(&mut rng, Algorithm::Ed25519).expect("a key");
    key.to_openssh(LineEnding::LF).expect("it is written").to_string()
}

#[cfg(test)]
mod tests {
    use russh::keys::EcdsaCurve;
    use russh::keys::ssh_key::LineEnding;

    use super::*;

    #[test]
    fn output_is_kept_up_to_its_bound() {
        let mut text = String::new();
        assert!(Ran::take(&mut text, &[b'x'; 1000]));
        assert!(!Ran::take(&mut text, &[b'x'; 100]));
        assert_eq!(text.len(), MOST_OUTPUT);
        assert!(Ran::take(&mut text, b""));
    }

    #[test]
    fn a_key_is_taken_without_a_passphrase_and_never_shown() {
        let mut rng = russh::keys::key::safe_rng();
        let text = |key: PrivateKey| key.to_openssh(LineEnding::LF).expect("it is written");
        for algorithm in [Algorithm::Ed25519, Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }] {
            let key = PrivateKey::random(&mut rng, algorithm).expect("a key");
            let locked = key.encrypt(&mut rng, "passphrase").expect("it is locked");
            assert!(ProbeKey::parse(&text(locked)).is_none());
            let key = ProbeKey::parse(&text(key)).expect("it is taken");
            assert_eq!(format!("{key:?}"), "ProbeKey(…)");
        }
        for other in ["", "ssh-ed25519 AAAA", "-----BEGIN OPENSSH PRIVATE KEY-----"] {
            assert!(ProbeKey::parse(other).is_none(), "{other:?}");
        }
    }
}
