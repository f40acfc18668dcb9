//! The addresses of this host, listed now and then.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::sys::names;

/// The addresses of this host as they were last listed, sorted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OwnAddresses(Arc<RwLock<Arc<[IpAddr]>>>);

impl OwnAddresses {
    /// Those there are now.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn list() -> std::io::Result<Self> {
        Ok(Self(Arc::new(RwLock::new(names::own_addresses()?.into()))))
    }

    /// Lists them again. Those that were known stay if the kernel does not answer.
    pub fn refresh(&self) {
        match names::own_addresses() {
            Ok(addresses) if addresses[..] != self.current()[..] => {
                *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses.into();
            }
            Ok(_) => {}
            Err(error) => log::warn!("this host's addresses cannot be listed: {error}"),
        }
    }

    /// Those last listed.
    pub fn current(&self) -> Arc<[IpAddr]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
