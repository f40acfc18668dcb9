//! TCP connections from a chosen address.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// A socket that begins to connect to `to` from `from`.
///
/// # Errors
/// The kernel's answer.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(from, to)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

/// A blocking socket that has been connected to `to` from `from`.
///
/// # Errors
/// The kernel's answer, or it has not come in time.
pub fn connect_from_within(
    from: IpAddr,
    to: SocketAddr,
    within: Duration,
) -> io::Result<TcpStream> {
    let socket = bound(from, to)?;
    socket.connect_timeout(&to.into(), within)?;
    Ok(socket.into())
}

/// A socket bound to `from`. The kernel chooses the port when it connects, not when it binds, so
/// that a port serves as many connections as there are far ends (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
fn bound(from: IpAddr, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int from `on`, whose size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&SocketAddr::new(from, 0).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_far_end_sees_the_chosen_address_and_a_port_serves_many_far_ends() {
        for (from, at) in [("127.0.0.5", "127.0.0.1:0"), ("::1", "[::1]:0")] {
            let from: IpAddr = from.parse().unwrap();
            let listener = TcpListener::bind(at).unwrap();
            let _held = connect_from(from, listener.local_addr().unwrap()).unwrap();
            let (_, seen) = listener.accept().unwrap();
            assert_eq!(seen.ip(), from);
            let to = listener.local_addr().unwrap();
            let held = connect_from_within(from, to, Duration::from_secs(60)).unwrap();
            assert_eq!(listener.accept().unwrap().1, held.local_addr().unwrap());
        }
        let nowhere = connect_from("192.0.2.1".parse().unwrap(), "127.0.0.1:9".parse().unwrap());
        assert_eq!(nowhere.unwrap_err().raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }
}
