//! A client changes its network: its own address is another one, or another link leads out.

use std::net::Ipv4Addr;
use std::time::Duration;

use corelane::lab::{LINK, addresses, wait_until};
use corelane::sys::clock;

use crate::daemon::Daemon;
use crate::harness::PATIENCE;
use crate::site::{SERVER_V4, Server, Site, add_user, await_online, inner_address};
use crate::tools;

/// The promise: everything is as before so soon after the network has changed.
const WITHIN: Duration = Duration::from_secs(3);

struct Online {
    site: Site,
    _server: Server,
    client: Daemon,
    /// The client's address in the tunnel.
    address: Ipv4Addr,
}

impl Online {
    fn new() -> Self {
        let site = Site::new();
        let mut server = site.server("vpn", "");
        server.administer([add_user("alice")]);
        server.start(&site.lab.server);
        let mut client = site.client("alice", &[addresses::SERVER_V4]);
        client.start(&site.lab.client);
        await_online(&mut client);
        let address = inner_address(&site.lab.client);
        tools::ping(&site.lab.server, address, "-c 3 -i 0.01");
        Self { site, _server: server, client, address }
    }

    fn run(&self, command: &str) {
        tools::run(&self.site.lab.client, command);
    }

    /// Everything goes on in time after this, which leads the client's packets another way.
    fn goes_on_after(&self, change: impl FnOnce()) {
        let began = clock::now();
        change();
        let (client, server) = (&self.site.lab.client, &self.site.lab.server);
        // The server must learn of it although it is the one that has something to say.
        self.await_this("an echo of the client", || tools::echo(server, self.address));
        self.await_this("an echo of the server", || tools::echo(client, SERVER_V4));
        self.await_this("the login that follows", || self.logins() == 2);
        let took = clock::now() - began;
        println!("everything went on after {took:?}");
        assert!(took < WITHIN, "{took:?}\n{}", self.client.log());
        let said = self.client.log().contains("the network has changed");
        assert!(said, "{}", self.client.log());
        assert_eq!(inner_address(&self.site.lab.client), self.address);
        tools::ping(client, SERVER_V4, "-c 20 -i 0.01");
        assert_eq!(self.logins(), 2, "one login is enough: {}", self.client.log());
    }

    fn await_this(&self, what: &str, condition: impl Fn() -> bool) {
        wait_until(PATIENCE, what, || condition().then_some(()))
            .unwrap_or_else(|timeout| panic!("{timeout}\n{}", self.client.log()));
    }

    fn logins(&self) -> usize {
        self.client.log().matches("logged in to").count()
    }
}

#[test]
fn a_client_whose_address_is_replaced_goes_on() {
    let online = Online::new();
    let router = addresses::ROUTER_CLIENT_SIDE_V4;
    online.goes_on_after(|| {
        online.run(&format!("ip address del {}/24 dev {LINK}", addresses::ROUTED_CLIENT_V4));
        online.run(&format!("ip address add 198.51.100.77/24 dev {LINK}"));
        online.run(&format!("ip route replace default via {router}"));
    });
}

#[test]
fn a_client_that_goes_from_one_link_to_another_goes_on() {
    let online = Online::new();
    let router = &online.site.lab.router;
    let there = tools::start(router, "sleep 60");
    let peer = format!("peer name to-radio netns {}", there.pid());
    online.run(&format!("ip link add radio0 type veth {peer}"));
    tools::run(router, "ip address add 203.0.113.254/24 dev to-radio");
    tools::run(router, "ip link set to-radio up");
    online.run("ip address add 203.0.113.2/24 dev radio0");
    online.run("ip link set radio0 up");
    online.run("ip route add default via 203.0.113.254 dev radio0 metric 600");
    assert_eq!(online.logins(), 1, "the better way is still there: {}", online.client.log());
    // The cable is pulled.
    online.goes_on_after(|| online.run(&format!("ip link set {LINK} down")));
}
