//! The accounts socket: a Unix stream socket on which administrators' operations come while the
//! server runs.
//!
//! A client sends one line of JSON, an [`Operation`], and gets one line: its outcome, or why there
//! is none. Only root and the user that the server runs as are heard, which the file's mode says
//! and the kernel's word on who has connected. Operations wait for the database, so each client has
//! a thread; how many there are, how long a request is and how long a client may take are bounded.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use zeroize::Zeroizing;

use crate::accounts::operations::{Actor, Operation, OperationError, OperationErrorKind, Outcome};
use crate::accounts::service::Accounts;
use crate::control::runtime::{StatusSocketError, bind_private_socket};
use crate::limits::{
    ACCOUNTS_CLIENT_TIMEOUT, ACCOUNTS_CLIENTS_MAX, ACCOUNTS_REQUEST_LEN_MAX,
    ACCOUNTS_STOP_LOOK_EVERY,
};
use crate::sys::peer;

/// The listening socket and its thread. Dropping it removes the file, and waits for what is being
/// done.
#[derive(Debug)]
pub(crate) struct AccountsSocket {
    path: PathBuf,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AccountsSocket {
    /// Offers the socket at `path`.
    ///
    /// # Errors
    /// Another server uses it, or the kernel refuses.
    pub(crate) fn open(path: &Path, accounts: Accounts) -> Result<Self, StatusSocketError> {
        let failed = |source| StatusSocketError::Io { path: path.to_owned(), source };
        let listener = UnixListener::from(OwnedFd::from(bind_private_socket(path)?));
        // Accepting ends now and then, to look whether this is to stop.
        listener.set_nonblocking(false).map_err(failed)?;
        socket2::SockRef::from(&listener)
            .set_read_timeout(Some(ACCOUNTS_STOP_LOOK_EVERY))
            .map_err(failed)?;
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (stop, own) = (Arc::clone(&is_stopping), peer::own_user());
        let run = move || accept(&listener, &accounts, own, &stop);
        let thread = thread::Builder::new().name("accounts-socket".to_owned()).spawn(run);
        let thread = Some(thread.map_err(failed)?);
        Ok(Self { path: path.to_owned(), is_stopping, thread })
    }
}

impl Drop for AccountsSocket {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread of the accounts socket has panicked");
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

/// Takes clients until it is to stop, and then waits for those that are there.
fn accept(listener: &UnixListener, accounts: &Accounts, own_user: u32, stop: &AtomicBool) {
    let clients = AtomicUsize::new(0);
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    wait_after(&error);
                    continue;
                }
            };
            if clients.fetch_add(1, Ordering::Relaxed) >= ACCOUNTS_CLIENTS_MAX {
                clients.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let clients = &clients;
            let serve = move || {
                if let Err(error) = serve(stream, accounts, own_user) {
                    log::debug!("accounts socket: {error}");
                }
                clients.fetch_sub(1, Ordering::Relaxed);
            };
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, serve) {
                clients.fetch_sub(1, Ordering::Relaxed);
                log::warn!("accounts socket: a client has to come again: {error}");
            }
        }
    });
}

fn wait_after(error: &io::Error) {
    let is_ordinary = matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    );
    if !is_ordinary {
        // Such as a want of descriptors, which does not pass at once.
        log::warn!("accounts socket, a client has to wait: {error}");
        thread::sleep(ACCOUNTS_STOP_LOOK_EVERY);
    }
}

fn serve(mut stream: UnixStream, accounts: &Accounts, own_user: u32) -> io::Result<()> {
    stream.set_read_timeout(Some(ACCOUNTS_CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(ACCOUNTS_CLIENT_TIMEOUT))?;
    let user = peer::user_of(&stream)?;
    let outcome = if user == 0 || user == own_user {
        match read_operation(&mut stream)? {
            Ok(operation) => accounts.execute(&Actor::local(user), operation),
            Err(message) => Err(refused(message)),
        }
    } else {
        log::warn!("accounts socket: user {user} was turned away");
        Err(refused("only root may do that: try `sudo`".to_owned()))
    };
    let mut answer = Zeroizing::new(answer_line(&outcome));
    answer.push(b'\n');
    stream.write_all(&answer)
}

fn answer_line(outcome: &Result<Outcome, OperationError>) -> Vec<u8> {
    serde_json::to_vec(outcome).unwrap_or_default()
}

fn refused(message: String) -> OperationError {
    OperationError { kind: OperationErrorKind::Invalid, message }
}

/// Reads a line; the inner error is what is wrong with it.
fn read_operation(stream: &mut UnixStream) -> io::Result<Result<Operation, String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(4096));
    let mut piece = Zeroizing::new([0; 4096]);
    let deadline = crate::sys::clock::now() + ACCOUNTS_CLIENT_TIMEOUT;
    while !line.contains(&b'\n') {
        if line.len() > ACCOUNTS_REQUEST_LEN_MAX {
            return Ok(Err("the request is too long".to_owned()));
        }
        if crate::sys::clock::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match stream.read(piece.as_mut_slice()) {
            Ok(0) => break,
            Ok(read) => line.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let text = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice(text).map_err(|error| {
        // What serde quotes of a request could be a secret.
        format!(
            "the request makes no sense, at column {}: is it another version of the program?",
            error.column()
        )
    }))
}

#[cfg(test)]
mod tests;
