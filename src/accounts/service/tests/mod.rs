mod attacks;
mod crowd;
mod fleet;
mod limits;
mod logins;
mod passes;
mod revocation;
mod timing;
