mod limits;
mod logins;
mod revocation;
