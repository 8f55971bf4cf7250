//! SSH of drills' machines, at the address that the next public IP of the world gets: a banner, or a real
//! server that lets somebody in and answers in a way of its choice.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the first public IP of a world gets. The simulator draws it, on loopback; every world here comes
/// from one seed.
pub(crate) const FIRST_PUBLIC_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 170, 128, 1);

/// The account that is let in.
pub(crate) const USER: &str = "azdr-probe";

/// What a machine says that keeps accounts out until it has booted.
pub(crate) const BOOTING: &str = "\"System is booting up. See pam_nologin(8)\"\r\n";

/// How a server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It shows a banner and hangs up.
    #[default]
    Banner,
    /// As it should.
    Well,
    /// It takes nobody.
    Refuses,
    /// It shows a banner and no more.
    HangsAfterBanner,
    /// It knows the key, and hangs up with words: it lets nobody in yet.
    KeepsOut,
    /// It exchanges keys, and then says nothing of who may log in.
    HangsAfterKeyExchange,
    /// It lets the probe in, and its commands never end.
    HangsInCommand,
    /// Its commands print without end.
    Floods,
    /// What is read is not what was written.
    AltersToken,
    /// Nothing can be written.
    ReadOnly,
    /// It runs no commands.
    RunsNothing,
    /// It hangs up when the probe has been let in.
    HangsUp,
    /// Its account prints a greeting first.
    Greets,
}

/// One world's: each has a port of its own.
pub(crate) struct Ssh {
    address: SocketAddr,
    server: Server,
    answering: JoinHandle<()>,
}

/// What the connections of a server share.
#[derive(Clone)]
struct Server {
    host_key: Arc<PrivateKey>,
    /// Of the account.
    key: Arc<PrivateKey>,
    answer: Arc<Mutex<Answer>>,
    boot_id: Arc<Mutex<String>>,
    /// What is in the account's file.
    file: Arc<Mutex<Option<Vec<u8>>>>,
    /// How many were let in.
    logins: Arc<Mutex<usize>>,
    /// Connections that are open.
    open: watch::Sender<usize>,
}

pub(crate) fn new_key() -> PrivateKey {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap()
}

impl Ssh {
    /// Answers from now on, with a banner.
    pub(crate) fn new() -> Self {
        let listener = std::net::TcpListener::bind((FIRST_PUBLIC_ADDRESS, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let server = Server {
            host_key: Arc::new(new_key()),
            key: Arc::new(new_key()),
            answer: Arc::default(),
            boot_id: Arc::default(),
            file: Arc::default(),
            logins: Arc::default(),
            open: watch::Sender::default(),
        };
        let accepting = server.clone();
        let answering = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = accepting.clone();
                server.open.send_modify(|n| *n += 1);
                tokio::spawn(async move {
                    let open = server.open.clone();
                    server.serve(stream).await;
                    open.send_modify(|n| *n -= 1);
                });
            }
        });
        Self { address, server, answering }
    }

    /// Answers like this from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        *self.server.answer.lock().unwrap() = answer;
    }

    /// Answers as a machine in this boot.
    pub(crate) fn boot(&self, boot_id: &str) {
        boot_id.clone_into(&mut self.server.boot_id.lock().unwrap());
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The fingerprint of its host key.
    pub(crate) fn host_key(&self) -> String {
        self.server.host_key.public_key().fingerprint(HashAlg::Sha256).to_string()
    }

    /// The account's private key, as `ssh-keygen` writes it.
    pub(crate) fn key(&self) -> String {
        self.server.key.to_openssh(LineEnding::LF).unwrap().to_string()
    }

    /// Whether the account's file is there.
    pub(crate) fn has_file(&self) -> bool {
        self.server.file.lock().unwrap().is_some()
    }

    /// Nobody is connected any more, or soon.
    pub(crate) async fn is_left(&self) {
        let mut open = self.server.open.subscribe();
        tokio::select! {
            biased;
            left = open.wait_for(|n| *n == 0) => drop(left.unwrap()),
            () = azdr_env::sleep(Duration::from_secs(60)) => panic!("the probe has not hung up"),
        }
    }

    /// How many were let in so far.
    pub(crate) fn logins(&self) -> usize {
        *self.server.logins.lock().unwrap()
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Server {
    fn answers(&self) -> Answer {
        *self.answer.lock().unwrap()
    }

    async fn serve(self, mut stream: TcpStream) {
        if matches!(self.answers(), Answer::Banner | Answer::HangsAfterBanner) {
            let _ = stream.write_all(b"SSH-2.0-Drill\r\n").await;
            if self.answers() == Answer::HangsAfterBanner {
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
            return;
        }
        // The clock stands still here while packets are under way, and must not wait for their joining.
        stream.set_nodelay(true).unwrap();
        let configuration = server::Config {
            auth_rejection_time: Duration::ZERO,
            keys: vec![(*self.host_key).clone()],
            ..server::Config::default()
        };
        let connection = Connection { server: self, begun: false };
        if let Ok(session) = server::run_stream(Arc::new(configuration), stream, connection).await {
            let _ = session.await;
        }
    }
}

/// One connection.
struct Connection {
    server: Server,
    /// What is written now is the file's begin.
    begun: bool,
}

impl Connection {
    fn end(session: &mut Session, channel: ChannelId, code: u32) -> Result<(), russh::Error> {
        session.exit_status_request(channel, code)?;
        session.eof(channel)?;
        session.close(channel)
    }
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, russh::Error> {
        Ok((self.server.answers() == Answer::KeepsOut).then(|| BOOTING.to_owned()))
    }

    async fn auth_publickey(&mut self, user: &str, key: &PublicKey) -> Result<Auth, russh::Error> {
        match self.server.answers() {
            Answer::HangsAfterKeyExchange => std::future::pending().await,
            Answer::KeepsOut => Err(russh::Error::Disconnect),
            Answer::Refuses => Ok(Auth::reject()),
            _ if user == USER && key.key_data() == self.server.key.public_key().key_data() => {
                *self.server.logins.lock().unwrap() += 1;
                Ok(Auth::Accept)
            }
            _ => Ok(Auth::reject()),
        }
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        match self.server.answers() {
            Answer::HangsUp => Err(russh::Error::Disconnect),
            _ => {
                reply.accept().await;
                Ok(())
            }
        }
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let command = std::str::from_utf8(command).unwrap();
        let answer = self.server.answers();
        if answer == Answer::RunsNothing {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        if answer == Answer::HangsInCommand {
            return Ok(());
        }
        if answer == Answer::Floods {
            let handle = session.handle();
            tokio::spawn(
                async move { while handle.data(channel, vec![b'x'; 16_384]).await.is_ok() {} },
            );
            return Ok(());
        }
        if answer == Answer::Greets {
            session.data(channel, b"Welcome!\n".to_vec())?;
        }
        if command.contains("umask 077; cat >") {
            // The file's content follows.
            self.begun = true;
            return Ok(());
        }
        assert!(command.contains("cat \"$HOME") && command.contains("rm -f"), "{command}");
        let mut read = self.server.file.lock().unwrap().take().unwrap_or_default();
        if answer == Answer::AltersToken {
            read[0] ^= 1;
        }
        read.extend(format!("{}\n", self.server.boot_id.lock().unwrap()).bytes());
        session.data(channel, read)?;
        Self::end(session, channel, 0)
    }

    async fn data(
        &mut self,
        _: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        if self.begun && self.server.answers() != Answer::ReadOnly {
            let mut file = self.server.file.lock().unwrap();
            file.get_or_insert_default().extend_from_slice(data);
        }
        Ok(())
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if !std::mem::take(&mut self.begun) {
            return Ok(());
        }
        if self.server.answers() == Answer::ReadOnly {
            let words = b"can't create /root/.azdr-probe: Read-only file system\n";
            session.extended_data(channel, 1, words.to_vec())?;
            return Self::end(session, channel, 1);
        }
        Self::end(session, channel, 0)
    }
}
