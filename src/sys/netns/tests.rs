//! Namespaces are told apart by the inode of `/proc/thread-self/ns/net`.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::{NetNamespace, command_in, die_with_parent, enter_user_namespace};

fn inside() -> String {
    fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string()
}

fn create() -> NetNamespace {
    NetNamespace::create()
        .expect("this test makes network namespaces: run it as root or under `unshare -Ur`")
}

#[test]
fn a_namespace_is_entered_by_one_thread_alone() {
    let outside = inside();
    let (first, second) = (create(), create());
    assert_eq!(inside(), outside);
    let in_first = first.run_in(inside).unwrap();
    assert_ne!(in_first, outside);
    assert_ne!(in_first, second.run_in(inside).unwrap());
    assert_eq!(in_first, first.run_in(inside).unwrap());
    assert_eq!(inside(), outside);
}

#[test]
fn a_fresh_namespace_has_a_loopback_that_works_and_nothing_else() {
    let (answer, interfaces) = create()
        .run_in(|| {
            let server = UdpSocket::bind("127.0.0.1:4000").unwrap();
            let client = UdpSocket::bind("[::1]:4000").unwrap();
            client.send_to(b"hello", client.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 16];
            let (len, _) = client.recv_from(&mut buffer).unwrap();
            drop(server);
            (buffer[..len].to_vec(), fs::read_to_string("/proc/thread-self/net/dev").unwrap())
        })
        .unwrap();
    assert_eq!(answer, b"hello");
    let names: Vec<_> = interfaces.lines().skip(2).map(|line| line.trim()).collect();
    assert!(names.iter().any(|line| line.starts_with("lo:")));
    assert!(names.iter().all(|line| !line.starts_with("eth") && !line.starts_with("veth")));
}

#[test]
fn a_panic_inside_continues_in_the_caller() {
    let namespace = create();
    let panic = std::panic::catch_unwind(|| namespace.run_in(|| panic!("inside"))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"inside"));
}

#[test]
fn a_command_runs_inside_even_if_the_handle_is_gone() {
    let namespace = create();
    let expected = namespace.run_in(inside).unwrap();
    let mut command = Command::new("readlink");
    command.arg("/proc/self/ns/net");
    command_in(&namespace, &mut command).unwrap();
    drop(namespace);
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected);
}

#[test]
fn a_child_dies_with_the_thread_that_spawned_it() {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        die_with_parent(&mut command);
        send.send(command.spawn().unwrap()).unwrap();
    })
    .join()
    .unwrap();
    let status = receive.recv().unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

#[test]
fn a_process_with_threads_cannot_enter_a_user_namespace() {
    // The test harness has threads, so this process stays where it is.
    let error = thread::spawn(enter_user_namespace).join().unwrap().unwrap_err();
    assert!(error.to_string().contains("first thread"), "{error}");
}

/// A child process with a single thread enters and is root over a network of its own.
#[test]
fn a_single_threaded_process_becomes_root_of_its_namespace() {
    let (read, write) = std::io::pipe().unwrap();
    // SAFETY: the child makes system calls and writes to a pipe, then leaves without running
    // destructors; what it allocates on the way comes from an allocator that glibc keeps usable
    // across fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let outcome = enter_user_namespace().map(|()| {
            // SAFETY: geteuid only reads.
            let user = unsafe { libc::geteuid() };
            (user, NetNamespace::create().is_ok())
        });
        let report = match outcome {
            Ok((user, nested)) => format!("user {user}, nested {nested}"),
            Err(error) => error.to_string(),
        };
        let mut write = write;
        let _ = std::io::Write::write_all(&mut write, report.as_bytes());
        // SAFETY: _exit ends the child at once.
        unsafe { libc::_exit(0) };
    }
    drop(write);
    let report = std::io::read_to_string(read).unwrap();
    let mut status = 0;
    // SAFETY: `status` is a live int, and the child is ours and has not been waited for.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(report, "user 0, nested true");
}
