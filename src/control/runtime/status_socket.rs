//! The status socket: a Unix stream socket that only the daemon's user may connect to.
//!
//! A client sends requests, each one line of JSON ([`StatusRequest`]), and gets one line of JSON
//! for each ([`StatusAnswer`]). Nothing a client does can hold the control thread up: the length
//! of a request, the number of clients and the time a client may take for a request and for
//! reading its answer are bounded, and each client is served one request a turn.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use thiserror::Error;

use crate::limits::{
    STATUS_ACCEPT_RETRY, STATUS_CLIENT_TIMEOUT, STATUS_CLIENTS_MAX, STATUS_REQUEST_LEN_MAX,
};
use crate::telemetry::status::{StatusAnswer, StatusRequest};

use super::{STATUS_CLIENTS, STATUS_LISTENER};

/// Why the status socket cannot be offered.
#[derive(Debug, Error)]
pub enum StatusSocketError {
    /// Another daemon answers on it.
    #[error(
        "socket {path}: another daemon is using it; stop that one (`corelane down`) or \
         choose another path (`status.socket`, `accounts.socket`)"
    )]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a socket is there.
    #[error("socket {path}: a file that is not a socket is in the way; move it")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("socket {path}: {source}; does its directory exist, and may we write to it?")]
    Io {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The listening socket and its clients. Dropping it removes the file.
pub struct StatusSocket {
    path: PathBuf,
    registry: Registry,
    listener: UnixListener,
    listener_ready: bool,
    /// When to accept again although nobody has announced anything.
    accept_again: Option<Instant>,
    clients: BTreeMap<usize, Client>,
}

impl StatusSocket {
    /// Offers the socket at `path`, readable and writable by this user only. A file left behind by
    /// a daemon that is gone is replaced.
    ///
    /// # Errors
    /// Another daemon listens there, something else is there, or the kernel refuses.
    pub fn bind(path: PathBuf, registry: &Registry) -> Result<Self, StatusSocketError> {
        let listener = bind_private_socket(&path)?;
        let io_error = |source| StatusSocketError::Io { path: path.clone(), source };
        let registry = registry.try_clone().map_err(io_error)?;
        let clients = BTreeMap::new();
        let (listener_ready, accept_again) = (true, None);
        let mut socket = Self { path, registry, listener, listener_ready, accept_again, clients };
        let (registry, listener) = (&socket.registry, &mut socket.listener);
        let registered = registry.register(listener, STATUS_LISTENER, Interest::READABLE);
        match registered {
            Ok(()) => Ok(socket),
            Err(source) => Err(StatusSocketError::Io { path: socket.path.clone(), source }),
        }
    }

    /// The poll tells of it: of [`STATUS_LISTENER`], or of a token from [`STATUS_CLIENTS`] on.
    pub fn handle_event(&mut self, token: Token) {
        if token == STATUS_LISTENER {
            self.listener_ready = true;
        } else if let Some(client) =
            token.0.checked_sub(STATUS_CLIENTS).and_then(|slot| self.clients.get_mut(&slot))
        {
            client.ready = true;
        }
    }

    /// Whether something is left to do without waiting.
    pub fn is_busy(&self) -> bool {
        self.listener_ready || self.clients.values().any(|client| client.ready)
    }

    /// When the next client runs out of time, or is to be accepted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.clients.values().map(|client| client.deadline);
        deadlines.chain(self.accept_again).min()
    }

    /// Accepts, serves and drops clients.
    pub fn turn(&mut self, now: Instant, answer: &mut dyn FnMut(StatusRequest) -> StatusAnswer) {
        let again = self.accept_again.take_if(|due| now >= *due).is_some();
        if self.listener_ready || again {
            self.accept(now);
        }
        let registry = &self.registry;
        self.clients.retain(|_, client| {
            let keep = now < client.deadline && (!client.ready || client.serve(now, answer));
            if !keep && let Err(error) = registry.deregister(&mut client.stream) {
                log::debug!("status socket: {error}");
            }
            keep
        });
    }

    fn accept(&mut self, now: Instant) {
        // One more than there is room for: those beyond are accepted and dropped, since an edge
        // that is left in the backlog would not be reported again.
        for _ in 0..=STATUS_CLIENTS_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        log::warn!("status socket, a client has to wait: {error}");
                        self.accept_again = Some(now + STATUS_ACCEPT_RETRY);
                    }
                    self.listener_ready = false;
                    return;
                }
            };
            let free = (0..STATUS_CLIENTS_MAX).find(|slot| !self.clients.contains_key(slot));
            let Some(slot) = free else { continue };
            let mut client = Client::new(stream, now);
            let token = Token(STATUS_CLIENTS + slot);
            let interest = Interest::READABLE | Interest::WRITABLE;
            match self.registry.register(&mut client.stream, token, interest) {
                Ok(()) => drop(self.clients.insert(slot, client)),
                Err(error) => log::warn!("status socket: {error}"),
            }
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("status socket {}: {error}", self.path.display());
        }
    }
}

/// One client.
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// The stream may be readable or writable, or input is left.
    ready: bool,
    /// Nothing more is read; the client is dropped once it has its answer.
    finishing: bool,
    deadline: Instant,
}

impl Client {
    fn new(stream: UnixStream, now: Instant) -> Self {
        Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            ready: true,
            finishing: false,
            deadline: now + STATUS_CLIENT_TIMEOUT,
        }
    }

    /// Goes on until the client blocks or one request is answered. Returns whether to keep it.
    fn serve(
        &mut self,
        now: Instant,
        answer: &mut dyn FnMut(StatusRequest) -> StatusAnswer,
    ) -> bool {
        let outcome = self.advance(now, answer);
        match outcome {
            Ok(keep) => keep,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ready = false;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) => {
                log::debug!("status socket client: {error}");
                false
            }
        }
    }

    fn advance(
        &mut self,
        now: Instant,
        answer: &mut dyn FnMut(StatusRequest) -> StatusAnswer,
    ) -> io::Result<bool> {
        self.write_output()?;
        if self.finishing {
            return Ok(false);
        }
        let Some(line) = self.read_line()? else { return Ok(false) };
        let reply = match line {
            Line::Request(line) => match serde_json::from_slice(&line) {
                Ok(request) => answer(request),
                Err(error) => self.refuse(format!("not a request: {error}")),
            },
            Line::TooLong => {
                self.refuse(format!("a request is longer than {STATUS_REQUEST_LEN_MAX} bytes"))
            }
        };
        self.deadline = now + STATUS_CLIENT_TIMEOUT;
        self.output = serde_json::to_vec(&reply).map_err(io::Error::other)?;
        self.output.push(b'\n');
        self.written = 0;
        self.write_output()?;
        Ok(!self.finishing)
    }

    fn refuse(&mut self, message: String) -> StatusAnswer {
        self.finishing = true;
        StatusAnswer::Error { message }
    }

    fn write_output(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output = Vec::new();
        self.written = 0;
        Ok(())
    }

    /// The next line, without its end; `None` at the end of the stream.
    fn read_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let rest = self.input.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.input, rest);
                line.pop();
                return Ok(Some(Line::Request(line)));
            }
            if self.input.len() > STATUS_REQUEST_LEN_MAX {
                return Ok(Some(Line::TooLong));
            }
            let mut buffer = [0; 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => self.input.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

enum Line {
    Request(Vec<u8>),
    TooLong,
}

/// Binds a Unix socket at `path` that this user alone may connect to. A file left behind by a
/// daemon that is gone is replaced.
///
/// # Errors
/// Another daemon listens there, something else is there, or the kernel refuses.
pub fn bind_private_socket(path: &Path) -> Result<UnixListener, StatusSocketError> {
    refuse_if_in_use(path)?;
    let failed = |source| StatusSocketError::Io { path: path.to_owned(), source };
    bind_private(path).map_err(failed)
}

fn refuse_if_in_use(path: &Path) -> Result<(), StatusSocketError> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(StatusSocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // Nobody listens: the daemon that made it is gone.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        // A full backlog (`WouldBlock`) means a listener, too.
        Ok(_) | Err(_) => Err(StatusSocketError::InUse { path: path.to_owned() }),
    }
}

/// Binds at another name, closes the file to others and only then gives it its own name, so that
/// there is no moment at which somebody else may connect. Renaming replaces a stale socket.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&draft)?;
    let named = fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&draft, path));
    if let Err(error) = named {
        drop(fs::remove_file(&draft));
        return Err(error);
    }
    Ok(listener)
}

#[cfg(test)]
mod tests;
