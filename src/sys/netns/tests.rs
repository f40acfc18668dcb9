//! Namespaces are told apart by the inode of `/proc/thread-self/ns/net`.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::{NetNamespace, UserNamespaceError, command_in, die_with_parent, enter_user_namespace};

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
fn another_process_can_enter_by_path() {
    let namespace = create();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.path().display()));
    let output = command.args(["readlink", "/proc/self/ns/net"]).output().unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    assert_eq!(seen.trim(), namespace.run_in(inside).unwrap());
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

/// Between fork and exec a child has a single thread, so there it can enter. It is root in there,
/// with a network of its own, and may make further network namespaces.
#[test]
fn a_single_threaded_process_becomes_root_of_its_namespace() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "id -u; unshare -n grep -c : /proc/self/net/dev; readlink /proc/self/ns/net"]);
    let enter = || {
        enter_user_namespace().map_err(|error| match error {
            UserNamespaceError::Threads => std::io::Error::from_raw_os_error(libc::EINVAL),
            UserNamespaceError::Forbidden { source }
            | UserNamespaceError::Refused { source, .. } => source,
        })
    };
    // SAFETY: what the closure allocates comes from an allocator that glibc keeps usable in a
    // forked child; it takes no lock of ours.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, enter) };
    let output = command.output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let [user, interfaces, namespace] = lines.lines().collect::<Vec<_>>()[..] else {
        panic!("{lines}{}", String::from_utf8_lossy(&output.stderr));
    };
    assert_eq!((user, interfaces), ("0", "1"));
    assert_ne!(namespace, inside());
}
