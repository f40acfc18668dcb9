mod attacks;
mod limits;
mod logins;
mod revocation;
mod timing;
