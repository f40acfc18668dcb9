mod attacks;
mod crowd;
mod limits;
mod logins;
mod revocation;
mod timing;
