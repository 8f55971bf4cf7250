//! Starts the fake controller, writes a context as `azdr-controller init` does, runs the binary.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use azdr_env::Env;
use azdr_identity::{
    AcceptLimits, CertificateAuthority, ClientAuth, Identity, Serial, ServerTls, listen,
    serve_incoming,
};
use azdr_proto::admin::admin_service_server::AdminServiceServer;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Server;

use crate::fake::FakeController;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A fake controller that runs, and the folder of an operator who may call it.
pub(crate) struct World {
    env: Env,
    ca: CertificateAuthority,
    tls: ServerTls,
    address: String,
    /// Bound and never listened on: nobody else gets the port while the controller is away.
    reserved: TcpSocket,
    folder: TempDir,
    running: Running,
}

struct Running {
    server: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Running {
    fn start(address: SocketAddr, tls: &ServerTls, ca: &CertificateAuthority) -> Self {
        let listener = listen(address).unwrap();
        let incoming = serve_incoming(listener, tls.clone(), AcceptLimits::default());
        let service = AdminServiceServer::new(FakeController::new(
            CertificateAuthority::from_pem(&ca.cert_pem(), ca.key_pem()).unwrap(),
        ));
        let (stop, stopped) = oneshot::channel::<()>();
        let until = async { stopped.await.unwrap_or_default() };
        let server =
            Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, until);
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { server, stop: Some(stop) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.running.server.abort();
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).expect("stdout is one JSON document")
    }

    pub(crate) fn error_json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stderr).expect("stderr is one JSON object")
    }
}

impl World {
    /// Must be called inside a tokio runtime.
    pub(crate) fn start() -> Self {
        let env = Env::system();
        let ca = CertificateAuthority::generate(&env).unwrap();
        let now = env.clock.wall();
        let serial = Serial::random(env.ids.as_ref());
        let (from, to) = (now.minus(DAY), now.plus(DAY));
        let (issued, key) = ca.issue_with_new_key(&Identity::Controller, from, to, serial).unwrap();
        let auth = ClientAuth::RequireCurrent;
        let tls =
            ServerTls::new(&issued.cert_der, &key, ca.cert_der(), auth, env.clock.clone()).unwrap();
        let reserved = TcpSocket::new_v4().unwrap();
        reserved.set_reuseaddr(true).unwrap();
        reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = reserved.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(address, &tls, &ca);
        let world = Self { env, ca, tls, address: address.to_string(), reserved, folder, running };
        world.write_context("context.toml", &world.address, &world.ca, 365 * DAY);
        world
    }

    /// The controller goes away: it answers what it was asked, and ends its connections.
    pub(crate) async fn stop(&mut self) {
        self.running.stop.take().expect("it runs").send(()).expect("it runs");
        (&mut self.running.server).await.unwrap();
    }

    /// It comes back at the same address.
    pub(crate) fn start_again(&mut self) {
        let address = self.reserved.local_addr().unwrap();
        self.running = Running::start(address, &self.tls, &self.ca);
    }

    /// Writes a bundle for the operator alice, issued by `ca`, that is valid for `lifetime`, beginning
    /// a day ago.
    pub(crate) fn write_context(
        &self,
        name: &str,
        controller: &str,
        ca: &CertificateAuthority,
        lifetime: Duration,
    ) -> PathBuf {
        let from = self.env.clock.wall().minus(DAY);
        let to = from.plus(DAY / 2).plus(lifetime);
        let serial = Serial::random(self.env.ids.as_ref());
        let alice = Identity::operator("alice").unwrap();
        let (issued, key) = ca.issue_with_new_key(&alice, from, to, serial).unwrap();
        let write = |file: String, text: &str| {
            std::fs::write(self.folder.path().join(&file), text).unwrap();
            file
        };
        let certificate = write(format!("{name}.pem"), &issued.cert_pem());
        let key = write(format!("{name}.key"), &key);
        let authority = write(format!("{name}.ca.pem"), &self.ca.cert_pem());
        let text = format!(
            "controller = {controller:?}\nca = {authority:?}\ncertificate = {certificate:?}\n\
             key = {key:?}\n"
        );
        self.folder.path().join(write(name.to_owned(), &text))
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn ca(&self) -> &CertificateAuthority {
        &self.ca
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The binary with the working context, an empty environment and a closed stdin.
    pub(crate) fn azdr(&self, args: &[&str]) -> Command {
        azdr_with(&self.folder.path().join("context.toml"), args)
    }

    /// Runs a command line to its end.
    pub(crate) async fn run(&self, line: &str) -> Ran {
        // What stands between quotes is one argument.
        let parts = line.split('"').enumerate();
        let args: Vec<&str> = parts
            .flat_map(|(n, part)| match n % 2 {
                0 => part.split_whitespace().collect(),
                _ => vec![part],
            })
            .collect();
        run(self.azdr(&args)).await
    }
}

pub(crate) fn azdr_with(context: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_azdr"));
    command.args(args).env_clear().env("AZDR_CONTEXT", context).stdin(Stdio::null());
    command
}

/// The server shares this runtime's only thread: waiting must not block it.
pub(crate) async fn run(mut command: Command) -> Ran {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    Ran {
        code: output.status.code().expect("it was not killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// As a person reads it: the command, what came out where, and how it ended.
pub(crate) fn transcript(line: &str, ran: &Ran) -> String {
    let Ran { code, stdout, stderr } = ran;
    format!("$ azdr {line}\n--- stdout\n{stdout}--- stderr\n{stderr}--- exit {code}\n")
}
