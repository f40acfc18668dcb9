mod attacks;
mod crowd;
mod fleet;
mod limits;
mod logins;
mod revocation;
mod timing;
