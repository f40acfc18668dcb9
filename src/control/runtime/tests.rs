//! Whole control threads on loopback, with workers that only listen.

mod orders;
mod sockets;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rand::SeedableRng;
use rand::rngs::StdRng;
use signal_hook::low_level::raise;
use tempfile::TempDir;

use super::*;
use crate::control::engine::{ClientOptions, ClientSetup, PeerSetup, ServerSetup};
use crate::dataplane::messages::{Endpoint, WorkerCommand};
use crate::handshake::LocalIdentity;
use crate::handshake::keys::{PresharedKey, PrivateKey};
use crate::host::monitor::HostMonitor;
use crate::limits::{REKEY_AFTER, STOP_WITHIN};
use crate::sys::udp::UdpOptions;
use crate::telemetry::drops::DropReason;
use crate::telemetry::status::{OffloadStatus, StatusReport};
use crate::wire::Features;

/// Long enough for any machine; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the hooks were called for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Called {
    Ready,
    Connected,
    Reload,
    Stopping,
    Stopped,
}

struct Hooks {
    called: Sender<Called>,
    reload: Result<Reload, String>,
    connected: Result<(), String>,
}

impl ControlHooks for Hooks {
    fn ready(&mut self) -> Result<(), String> {
        self.called.send(Called::Ready).unwrap();
        Ok(())
    }

    fn connected(&mut self, _: &PublicKey) -> Result<(), String> {
        self.called.send(Called::Connected).unwrap();
        self.connected.clone()
    }

    fn disconnected(&mut self, _: &PublicKey, _: DisconnectReason) {}

    fn reload(&mut self) -> Result<Reload, String> {
        self.called.send(Called::Reload).unwrap();
        self.reload.clone()
    }

    fn stopping(&mut self) {
        self.called.send(Called::Stopping).unwrap();
    }

    fn stopped(&mut self, _: &mut Engine, _by_request: bool) {
        self.called.send(Called::Stopped).unwrap();
    }
}

/// A server's control thread with one worker, played by the test.
struct Server {
    directory: TempDir,
    address: SocketAddr,
    commands: Receiver<WorkerCommand>,
    events: Sender<WorkerEvent>,
    waker: Arc<Waker>,
    handle: ControlHandle,
    called: Receiver<Called>,
    thread: JoinHandle<Result<(), ControlError>>,
    /// Keeps the worker's waker alive.
    _worker_poll: Poll,
}

struct Options {
    catch_signals: bool,
    reload: Result<Reload, String>,
    connected: Result<(), String>,
}

impl Default for Options {
    fn default() -> Self {
        let reload = Ok(Reload::Server { peers: Vec::new() });
        Self { catch_signals: false, reload, connected: Ok(()) }
    }
}

fn identity(seed: u64) -> Arc<LocalIdentity> {
    Arc::new(LocalIdentity::new(PrivateKey::generate(&mut StdRng::seed_from_u64(seed))))
}

fn server_engine() -> Engine {
    let peer = PeerSetup {
        public_key: *identity(2).public(),
        preshared_key: PresharedKey::default(),
        allowed: Vec::new(),
        policy: None,
    };
    let setup = ServerSetup {
        identity: identity(1),
        workers: 1,
        features: Features::empty(),
        tun_mtu: 1408,
        peers: vec![peer],
    };
    Engine::new_server(setup, StdRng::seed_from_u64(1), clock::now())
}

fn client_engine(server: SocketAddr) -> Engine {
    let setup = ClientSetup {
        identity: identity(2),
        workers: 1,
        features: Features::empty(),
        tun_mtu: 1408,
        server_key: *identity(1).public(),
        server,
        options: ClientOptions {
            preshared_key: PresharedKey::default(),
            allowed: Vec::new(),
            keepalive: None,
            rekey_after: REKEY_AFTER,
        },
    };
    Engine::new_client(setup, StdRng::seed_from_u64(2), clock::now())
}

fn info() -> DaemonInfo {
    DaemonInfo {
        version: "0.0.0".to_owned(),
        tun: "corelane0".to_owned(),
        mtu: 1408,
        endpoints: vec!["127.0.0.1:1".to_owned()],
        offloads: OffloadStatus::default(),
    }
}

impl Server {
    fn start(options: Options) -> Self {
        let directory = TempDir::new().unwrap();
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let socket = UdpSocket::bind(loopback, &UdpOptions::default()).unwrap();
        let address = socket.local_addr();
        let (command_sender, commands) = unbounded();
        let (events, event_receiver) = unbounded();
        let (call_sender, called) = unbounded();
        let worker_poll = Poll::new().unwrap();
        let worker_waker = Arc::new(Waker::new(worker_poll.registry(), Token(0)).unwrap());
        let poll = ControlPoll::new().unwrap();
        let waker = poll.waker();
        let (handle, orders) = ControlHandle::new(&poll);
        let path = directory.path().join("status");
        let worker = WorkerHandle {
            commands: command_sender,
            waker: worker_waker,
            counters: Arc::default(),
            cpu: Some(0),
        };
        let Options { catch_signals, reload, connected } = options;
        let thread = thread::spawn(move || {
            let parts = ControlParts {
                engine: server_engine(),
                poll,
                sockets: vec![vec![socket]],
                workers: vec![worker],
                events: event_receiver,
                orders,
                interface: None,
                host: HostMonitor::default(),
                status_socket: Some(path),
                catch_signals,
                info: info(),
                hooks: Box::new(Hooks { called: call_sender, reload, connected }),
            };
            ControlThread::new(parts)?.run()
        });
        let server = Self {
            directory,
            address,
            commands,
            events,
            waker,
            handle,
            called,
            thread,
            _worker_poll: worker_poll,
        };
        server.expect_call(Called::Ready);
        assert!(matches!(server.command(), WorkerCommand::SetPrefixes(_)));
        server
    }

    fn expect_call(&self, wanted: Called) {
        assert_eq!(self.called.recv_timeout(PATIENCE), Ok(wanted));
    }

    fn command(&self) -> WorkerCommand {
        self.commands.recv_timeout(PATIENCE).unwrap()
    }

    fn tell(&self, event: WorkerEvent) {
        self.events.send(event).unwrap();
        self.waker.wake().unwrap();
    }

    fn ask(&self, request: StatusRequest) -> StatusAnswer {
        let stream = UnixStream::connect(self.directory.path().join("status")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = serde_json::to_vec(&request).unwrap();
        line.push(b'\n');
        (&stream).write_all(&line).unwrap();
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    fn status(&self) -> StatusReport {
        match self.ask(StatusRequest::Status) {
            StatusAnswer::Status(report) => *report,
            other => panic!("{other:?}"),
        }
    }

    /// Plays the worker's part of a stop and returns how the thread ended.
    fn finish(self) -> Result<(), ControlError> {
        self.expect_call(Called::Stopping);
        loop {
            if let WorkerCommand::Stop = self.command() {
                break;
            }
        }
        self.tell(WorkerEvent::Stopped { worker: 0 });
        self.tell(WorkerEvent::Closed { worker: 0 });
        self.expect_call(Called::Stopped);
        let outcome = self.thread.join().unwrap();
        assert!(!self.directory.path().join("status").exists());
        outcome
    }

    /// Connects a client engine over a real socket; the command that installed the session.
    fn connect_client(&self) -> WorkerCommand {
        let socket = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = client_engine(self.address);
        client.start(now());
        while client.poll_command().is_some() {}
        let (to, initiation) = client.poll_transmit().unwrap();
        socket.send_to(&initiation, to.remote).unwrap();
        let mut response = [0; 2048];
        let len = socket.recv(&mut response).unwrap();
        // Sent after the workers were told: it must be there by now.
        let install = self.commands.try_recv().unwrap();
        client.handle_datagram(now(), to, &response[..len]);
        assert!(matches!(
            client.poll_command(),
            Some((_, WorkerCommand::InstallSession(ours))) if ours.remote == installed(&install)
        ));
        install
    }
}

fn installed(command: &WorkerCommand) -> crate::wire::SessionIndex {
    match command {
        WorkerCommand::InstallSession(install) => install.local,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_connects_is_reported_and_is_sent_away_by_down() {
    let server = Server::start(Options::default());
    let session = installed(&server.connect_client());
    let endpoint = Endpoint { remote: "192.0.2.7:4000".parse().unwrap(), local: None, listener: 0 };
    server.tell(WorkerEvent::PathSeen { worker: 0, session, path: 0, endpoint });
    server.expect_call(Called::Connected);

    let report = server.status();
    assert_eq!((report.role.as_str(), report.state.as_str()), ("server", "up"));
    assert_eq!(report.public_key, identity(1).public().to_string());
    assert_eq!(report.drops.len(), DropReason::COUNT);
    assert_eq!(report.workers.len(), 1);
    assert!(report.peers[0].connected);
    assert_eq!(report.peers[0].paths[0].endpoint.as_deref(), Some("192.0.2.7:4000"));

    assert!(matches!(server.ask(StatusRequest::Down), StatusAnswer::Ok));
    let mut said_goodbye = false;
    while let Ok(command) = server.commands.recv_timeout(PATIENCE) {
        match command {
            WorkerCommand::SendPathMessage { message, .. } => {
                said_goodbye |= message == crate::wire::PathMessage::Close { reason: 0 };
            }
            WorkerCommand::Stop => break,
            _ => {}
        }
    }
    assert!(said_goodbye);
    server.tell(WorkerEvent::Stopped { worker: 0 });
    server.tell(WorkerEvent::Closed { worker: 0 });
    server.expect_call(Called::Stopping);
    server.expect_call(Called::Stopped);
    assert!(server.thread.join().unwrap().is_ok());
    assert!(!server.directory.path().join("status").exists());
}

#[test]
fn a_reload_reaches_the_workers_and_a_failed_one_changes_nothing() {
    let server = Server::start(Options::default());
    assert!(matches!(server.ask(StatusRequest::Reload), StatusAnswer::Ok));
    server.expect_call(Called::Reload);
    assert!(matches!(server.command(), WorkerCommand::SetPrefixes(_)));
    assert!(server.status().peers.is_empty());
    server.ask(StatusRequest::Down);
    assert!(server.finish().is_ok());

    let reload = Err("line 3: no such key".to_owned());
    let server = Server::start(Options { reload, ..Options::default() });
    match server.ask(StatusRequest::Reload) {
        StatusAnswer::Error { message } => assert_eq!(message, "line 3: no such key"),
        other => panic!("{other:?}"),
    }
    server.expect_call(Called::Reload);
    assert!(server.commands.is_empty());
    let report = server.status();
    assert_eq!(report.peers.len(), 1);
    assert!(report.last_error.unwrap().contains("line 3"));
    server.ask(StatusRequest::Down);
    assert!(server.finish().is_ok());
}

#[test]
fn the_log_names_a_peer_as_the_configuration_does() {
    let peer = *identity(1).public();
    assert_eq!(describe(&peer, None), peer.to_string());
    assert_eq!(describe(&peer, Some("laptop".to_owned())), format!("laptop ({peer})"));
}

#[test]
fn a_worker_that_fails_ends_the_run_with_its_reason() {
    let server = Server::start(Options::default());
    server.tell(WorkerEvent::Failed { worker: 0, error: "its TUN queue is gone".to_owned() });
    server.tell(WorkerEvent::Closed { worker: 0 });
    server.expect_call(Called::Stopping);
    server.expect_call(Called::Stopped);
    let error = server.thread.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "worker 0 failed: its TUN queue is gone");
}

#[test]
fn a_device_that_is_gone_ends_the_run_with_what_to_do() {
    let server = Server::start(Options::default());
    let error = "File descriptor in bad state (os error 77)".to_owned();
    // Every worker notices.
    for worker in [0, 0] {
        server.tell(WorkerEvent::DeviceGone { worker, error: error.clone() });
        server.tell(WorkerEvent::Closed { worker });
    }
    server.expect_call(Called::Stopping);
    server.expect_call(Called::Stopped);
    let error = server.thread.join().unwrap().unwrap_err();
    let told = error.to_string();
    assert!(told.contains(&format!("the TUN device {} is gone", info().tun)), "{told}");
    assert!(told.contains("bad state") && told.contains("`systemctl restart corelane-server`"));
}

#[test]
fn a_hook_that_refuses_ends_the_run_with_its_reason() {
    let connected = Err("no route".to_owned());
    let server = Server::start(Options { connected, ..Options::default() });
    let session = installed(&server.connect_client());
    let endpoint = Endpoint { remote: server.address, local: None, listener: 0 };
    server.tell(WorkerEvent::PathSeen { worker: 0, session, path: 0, endpoint });
    server.expect_call(Called::Connected);
    let error = server.finish().unwrap_err();
    assert_eq!(error.to_string(), "no route");
}

#[test]
fn a_worker_that_does_not_stop_is_not_waited_for_for_ever() {
    let server = Server::start(Options::default());
    let began = clock::now();
    server.ask(StatusRequest::Down);
    server.expect_call(Called::Stopping);
    server.expect_call(Called::Stopped);
    assert!(server.thread.join().unwrap().is_ok());
    assert!(clock::now() - began >= STOP_WITHIN);
}

#[test]
fn a_kernel_that_is_slow_to_close_a_device_is_waited_for() {
    let server = Server::start(Options::default());
    server.ask(StatusRequest::Down);
    server.expect_call(Called::Stopping);
    server.tell(WorkerEvent::Stopped { worker: 0 });
    // Routes are taken back as soon as nothing passes the tunnel.
    server.expect_call(Called::Stopped);
    thread::sleep(STOP_WITHIN * 3 / 2);
    assert_eq!(server.status().state, "stopping", "it waits for longer, and goes on answering");
    server.tell(WorkerEvent::Closed { worker: 0 });
    assert!(server.thread.join().unwrap().is_ok());
}

/// One test for all signals: they are sent to the whole process.
#[test]
fn signals_reload_then_stop_then_hurry() {
    let server = Server::start(Options { catch_signals: true, ..Options::default() });
    raise(SIGHUP).unwrap();
    server.expect_call(Called::Reload);
    raise(SIGTERM).unwrap();
    assert!(server.finish().is_ok());

    let server = Server::start(Options { catch_signals: true, ..Options::default() });
    raise(SIGINT).unwrap();
    server.expect_call(Called::Stopping);
    let began = clock::now();
    raise(SIGINT).unwrap();
    server.expect_call(Called::Stopped);
    assert!(server.thread.join().unwrap().is_ok());
    assert!(clock::now() - began < STOP_WITHIN, "the second signal ends the wait");
}
