//! What the system knows of names (`getaddrinfo(3)`).

use std::ffi::CString;
use std::fs::File;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// Why there are no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// There is no such name, or it has no addresses.
    NotFound,
    /// The name servers do not answer, or not in a way that helps.
    Unavailable,
    /// This process has no descriptor to ask by.
    Exhausted,
}

/// Looks a name up as every program of this system does (`/etc/hosts`, name servers, what
/// `nsswitch.conf` says), the address to be preferred first (RFC 6724). Blocks for as long as that
/// takes.
///
/// # Errors
/// See [`LookupError`].
pub fn look_up(name: &str) -> Result<Vec<IpAddr>, LookupError> {
    let name = CString::new(name).map_err(|_| LookupError::NotFound)?;
    // SAFETY: all-zero is a valid addrinfo that asks for nothing in particular.
    let mut hints: libc::addrinfo = unsafe { MaybeUninit::zeroed().assume_init() };
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list: *mut libc::addrinfo = ptr::null_mut();
    // SAFETY: the name is a C string, and the other pointers lead to a live hint and to room for a
    // pointer.
    let code =
        unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    match code {
        0 => {}
        // Where it can open neither a file nor a socket the resolver says anything, that there is
        // no such name as well.
        _ if File::open("/").is_err() => return Err(LookupError::Exhausted),
        libc::EAI_NONAME | libc::EAI_NODATA => return Err(LookupError::NotFound),
        _ => return Err(LookupError::Unavailable),
    }
    let mut found = Vec::new();
    let mut entry = list;
    // SAFETY: the call has succeeded, so `list` is a list of entries that ends with null, each with
    // an address of the family it says or none, until freeaddrinfo.
    while let Some(info) = unsafe { entry.as_ref() } {
        // SAFETY: as above.
        if let Some(address) = unsafe { address_of(info.ai_addr) }
            && !found.contains(&address)
        {
            found.push(address);
        }
        entry = info.ai_next;
    }
    // SAFETY: the list came from getaddrinfo, and nothing refers to it any more.
    unsafe { libc::freeaddrinfo(list) };
    if found.is_empty() { Err(LookupError::NotFound) } else { Ok(found) }
}

/// The IP address in a socket address, if it is one.
///
/// # Safety
/// `address` is null or leads to a socket address that is as long as its family says.
unsafe fn address_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller vouches for it; every socket address begins with its family.
    let family = i32::from(unsafe { address.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: the family says that it is this long; it need not be aligned.
            let address = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_knows_its_name_for_itself() {
        let found = look_up("localhost").unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    #[test]
    fn addresses_are_their_own_names_and_nonsense_is_none() {
        assert_eq!(look_up("192.0.2.7"), Ok(vec!["192.0.2.7".parse().unwrap()]));
        assert_eq!(look_up("2001:db8::7"), Ok(vec!["2001:db8::7".parse().unwrap()]));
        assert_eq!(look_up("a\0b"), Err(LookupError::NotFound));
        assert!(look_up("no-such-host.invalid").is_err());
    }
}
