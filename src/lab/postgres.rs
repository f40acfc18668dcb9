//! A PostgreSQL server of one's own: in a folder of its own, on a Unix socket alone, gone with the
//! process that started it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::lab::{LabError, WaitTimeout, wait_until};

/// User and group that the server runs as when this process is root, which PostgreSQL refuses to
/// be run by: `nobody`.
const UNPRIVILEGED: u32 = 65534;
/// How long the server may take to be there.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// Runs the server and does what it is told, a word a line. When nobody can tell it anything any
/// more, it ends the server and takes the folder away.
const SUPERVISOR: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c max_connections=100 \
    -c log_min_messages=fatal >>"$2/log" 2>&1 </dev/null &
server=$!
all() { echo $server $(cat /proc/$server/task/$server/children); }
while order=; read -r order; do
    case $order in
        pause) kill -STOP $(all) ;;
        resume) kill -CONT $(all) ;;
        *) break ;;
    esac
    echo done
done
kill -CONT $(all) 2>/dev/null
case $order in
    stop) kill -INT $server ;;
    *) kill -QUIT $server ;;
esac
wait $server
case $order in
    stop | crash) ;;
    *) rm -rf "$2" ;;
esac
"#;

/// The server.
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    running: Option<Running>,
}

struct Running {
    supervisor: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Postgres {
    /// Makes a server and waits until it answers.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not come up.
    pub fn start() -> Result<Self, LabError> {
        let programs = programs().map_err(LabError::program("find PostgreSQL"))?;
        let folder = make_folder().map_err(LabError::program("make a folder for PostgreSQL"))?;
        let mut server = Self { programs, folder, running: None };
        let mut initdb = server.command("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--username=corelane", "--encoding=UTF8"]);
        initdb.args(["--no-locale", "--no-instructions", "--pgdata"]);
        initdb.arg(server.folder.join("data"));
        succeed(&mut initdb).map_err(LabError::program("initialise PostgreSQL"))?;
        server.run()?;
        Ok(server)
    }

    /// Makes an empty database, and the address by which its owner gets at it.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn database(&self, name: &str) -> Result<String, LabError> {
        self.query("postgres", &format!("CREATE DATABASE \"{name}\""))?;
        let folder = self.folder.display().to_string().replace('/', "%2F");
        Ok(format!("postgres://corelane@{folder}/{name}"))
    }

    /// Runs a statement in a database; what `psql` prints.
    ///
    /// # Errors
    /// The server does not answer, or refuses it.
    pub fn query(&self, database: &str, statement: &str) -> Result<String, LabError> {
        let mut psql = self.command("psql");
        psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--username=corelane"]);
        psql.args(["--dbname", database, "--command", statement, "--host"]).arg(&self.folder);
        let output = succeed(&mut psql).map_err(LabError::program("ask PostgreSQL"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Ends it as an administrator does; [`Self::run`] starts it again.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&mut self) -> Result<(), LabError> {
        self.end("stop")
    }

    /// Ends it as if it had crashed.
    ///
    /// # Errors
    /// It does not end.
    pub fn crash(&mut self) -> Result<(), LabError> {
        self.end("crash")
    }

    /// Lets it stand still: connections are taken and nothing is answered.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.order("pause")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&mut self) -> Result<(), LabError> {
        self.order("resume")
    }

    /// Starts it, after it was stopped, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn run(&mut self) -> Result<(), LabError> {
        let mut supervisor = self.unprivileged(Command::new("sh"));
        supervisor.args(["-c", SUPERVISOR, "supervisor"]).arg(&self.programs).arg(&self.folder);
        supervisor.stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = supervisor.spawn().and_then(|mut supervisor| {
            let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
            let orders = supervisor.stdin.take().ok_or_else(gone)?;
            let answers = BufReader::new(supervisor.stdout.take().ok_or_else(gone)?);
            Ok(Running { supervisor, orders, answers })
        });
        self.running = Some(started.map_err(LabError::program("start PostgreSQL"))?);
        let answers = || self.query("postgres", "SELECT 1").ok();
        let up = wait_until(UP_WITHIN, "PostgreSQL to answer", answers);
        up.map(drop).map_err(|WaitTimeout { what, within }| {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            LabError::from(WaitTimeout { what: format!("{what}; its log: {log}"), within })
        })
    }

    fn order(&mut self, order: &str) -> Result<(), LabError> {
        let running = self.running.as_mut();
        let running = running.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        let done = running.and_then(|running| {
            writeln!(running.orders, "{order}")?;
            running.answers.read_line(&mut String::new())
        });
        done.map(drop).map_err(LabError::program(format!("{order} PostgreSQL")))
    }

    fn end(&mut self, order: &str) -> Result<(), LabError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let ended = writeln!(running.orders, "{order}").and_then(|()| {
            drop(running.orders);
            running.supervisor.wait()
        });
        ended.map(drop).map_err(LabError::program(format!("{order} PostgreSQL")))
    }

    fn command(&self, program: &str) -> Command {
        self.unprivileged(Command::new(self.programs.join(program)))
    }

    fn unprivileged(&self, mut command: Command) -> Command {
        if is_root() {
            command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
        }
        command.current_dir(&self.folder);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let is_running = self.running.is_some();
        if self.end("end").is_err() || !is_running {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn is_root() -> bool {
    // The owner of a process's own entry is its effective user (proc(5)).
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Where PostgreSQL's programs are: Debian does not put them on the path.
fn programs() -> io::Result<PathBuf> {
    let has_all = |folder: &Path| {
        ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).exists())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(folder) = std::env::split_paths(&path).find(|folder| has_all(folder)) {
        return Ok(folder);
    }
    let missing = "its programs are not here; install them with `apt-get install postgresql`";
    let missing = || io::Error::new(io::ErrorKind::NotFound, missing);
    let versions = fs::read_dir("/usr/lib/postgresql").map_err(|_| missing())?;
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| has_all(&path.join("bin")))
        .max_by_key(|path| version(path));
    newest.map(|path| path.join("bin")).ok_or_else(missing)
}

/// A folder that is the server's, and its group's to pass through. Its name is short, since a
/// socket's path must be.
fn make_folder() -> io::Result<PathBuf> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let name = format!("corelane-pg-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder)?;
    // The group stays root's, so that daemons get at the socket after they have given up the right
    // to pass by permissions.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o710))?;
    if is_root() {
        chown(&folder, Some(UNPRIVILEGED), None)?;
    }
    Ok(folder)
}

fn succeed(command: &mut Command) -> io::Result<Output> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(output);
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{}: {words}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_data_until_it_is_dropped() {
        let mut server = Postgres::start().unwrap();
        let folder = server.folder.clone();
        let address = server.database("kept").unwrap();
        assert!(address.ends_with("/kept"), "{address}");
        server.query("kept", "CREATE TABLE seen (number BIGINT)").unwrap();
        server.stop().unwrap();
        assert!(server.query("kept", "SELECT 1").is_err());
        server.run().unwrap();
        assert_eq!(server.query("kept", "SELECT count(*) FROM seen").unwrap(), "0");
        server.pause().unwrap();
        server.resume().unwrap();
        assert_eq!(server.query("kept", "SELECT 7").unwrap(), "7");
        drop(server);
        assert!(!folder.exists());
    }
}
