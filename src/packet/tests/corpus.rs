//! The committed fuzzing corpora, replayed.

use std::fs;
use std::path::Path;

use super::super::fuzz;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        run(&fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}

#[test]
fn parse_corpus_breaks_no_promise() {
    replay("packet_parse", fuzz::parse);
}

#[test]
fn split_corpus_breaks_no_promise() {
    replay("packet_split", fuzz::split);
}

#[test]
fn coalesce_corpus_breaks_no_promise() {
    replay("packet_coalesce", fuzz::coalesce);
}

#[test]
fn zz_dump() {
    use super::*;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let ext = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
    let frag = vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 1])];
    let long = vec![7u8; 120];
    let builds = [
        ("tcp_v4", Build { payload: long.clone(), ..Build::tcp_v4() }),
        ("tcp_v6", Build { payload: long.clone(), ..Build::tcp_v6() }),
        ("udp_v4", Build { payload: long.clone(), ..Build::udp_v4() }),
        ("udp_v6", Build { payload: long.clone(), ..Build::udp_v6() }),
        (
            "tcp_v4_syn_mss",
            Build {
                tcp_flags: 2,
                tcp_options: vec![2, 4, 5, 0xb4, 1, 2, 4, 5, 0xb4, 1, 1, 0],
                payload: vec![],
                ..Build::tcp_v4()
            },
        ),
        ("tcp_v6_extension", Build { extensions: ext, payload: long.clone(), ..Build::tcp_v6() }),
        ("udp_v6_fragment", Build { extensions: frag, payload: long.clone(), ..Build::udp_v6() }),
        (
            "udp_v4_options_may_fragment",
            Build {
                ip_options: vec![7, 3, 4, 1, 0x94, 4, 0, 0],
                dont_fragment: false,
                payload: vec![5; 700],
                ..Build::udp_v4()
            },
        ),
        (
            "tcp_v4_cwr_psh",
            Build {
                tcp_flags: 0x98,
                tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
                payload: long.clone(),
                ..Build::tcp_v4()
            },
        ),
        ("icmp_v4_echo", Build::raw_v4(1, &[8, 0, 0, 0, 0, 1, 0, 1])),
        ("icmp_v6_error", Build::raw_v6(58, &[1, 0, 0, 0, 0, 0, 0, 0])),
    ];
    for (name, build) in &builds {
        fs::write(root.join("packet_parse").join(name), build.packet()).unwrap();
        if build.transport().is_none() {
            continue;
        }
        let partial = build.clone().partial();
        let packet = partial.packet();
        let mut vnet = [0; 10];
        partial_vnet(&partial).emit(&mut vnet);
        fs::write(
            root.join("packet_split").join(format!("{name}_single")),
            [&vnet[..], &packet].concat(),
        )
        .unwrap();
        let Ok(split) = Split::new(&super_vnet(&partial, 50), &packet, true) else { continue };
        super_vnet(&partial, 50).emit(&mut vnet);
        fs::write(root.join("packet_split").join(name), [&vnet[..], &packet].concat()).unwrap();
        let mut data = Vec::new();
        for s in segments(&split) {
            data.extend_from_slice(&(s.len() as u16).to_be_bytes());
            data.extend_from_slice(&s);
        }
        fs::write(root.join("packet_coalesce").join(name), data).unwrap();
    }
}
