use super::*;

const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(5);

fn config(secret: bool) -> FastConfig {
    FastConfig {
        own: PeerName([2, 0, 0, 0, 0, 1]),
        ability: Ability::Ready { backend: "vxlan".to_owned(), no_esp: None, encap: Ok(6785), lanes: 4 },
        secret,
        trusted_subnets: Vec::new(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        mtu: 1340,
        refused: None,
    }
}

fn hello() -> Hello {
    let to = "10.0.0.1".parse().unwrap();
    let (ready, esp, trusts, hears, hears_full, nat) = (true, true, false, true, true, false);
    Hello { ready, esp, trusts, hears, hears_full, nat, lanes: 2, to, encap: 6785, sees: None }
}

/// One link's fast datapath in virtual time; the peer answers by each method or not.
struct Bench {
    fast: Fast,
    config: FastConfig,
    entropy: Entropy,
    now: Time,
    by_fast: bool,
    by_sleeve: bool,
    sleeve_answered: Option<Time>,
    has_way: bool,
}

impl Bench {
    fn new() -> Self {
        let mut fast = Fast::new(PeerName([2, 0, 0, 0, 0, 2]), Time::ZERO);
        fast.set_remote("10.0.0.2".parse().unwrap());
        let entropy = Entropy::seeded([1; 32]);
        let (by_fast, by_sleeve) = (true, true);
        let now = Time::ZERO + SECOND;
        Self { fast, config: config(false), entropy, now, by_fast, by_sleeve, sleeve_answered: None, has_way: true }
    }

    fn carrying() -> Self {
        let mut bench = Self::new();
        bench.fast.greeted(hello(), bench.now);
        bench.run(SECOND);
        assert!(bench.fast.carries());
        bench
    }

    /// The kernel does as planned, and says so.
    fn kernel_obeys(&mut self) {
        if let Some(PlannedPeer { remote, protection: Protection::Clear, .. }) = self.fast.plan(&self.config) {
            self.fast.sends(remote, None, None, self.now);
        }
    }

    /// Lets time pass; whether it carried all the while.
    fn run(&mut self, span: Duration) -> bool {
        let end = self.now + span;
        let mut carried = true;
        while self.now < end {
            if self.by_sleeve {
                self.sleeve_answered = Some(self.now);
            }
            let others = Others { sleeve_answered: self.sleeve_answered, relay: false, has_way: self.has_way };
            self.fast.handle_timeout(&self.config, None, others, self.now, &self.entropy);
            self.kernel_obeys();
            while let Some(next) = self.fast.poll(&self.config, self.now, &self.entropy) {
                if let ToSend::Heartbeat(token, _) = next
                    && self.by_fast
                {
                    self.fast.echoed(token, 0, self.now);
                }
            }
            carried &= self.fast.carries();
            self.now = self.now + STEP;
        }
        carried
    }
}

#[test]
fn it_is_left_only_for_a_method_that_answers() {
    let mut bench = Bench::carrying();
    (bench.by_fast, bench.by_sleeve) = (false, false);
    assert!(bench.run(SECOND * 10), "nothing answers: there is nothing better");
    bench.by_sleeve = true;
    assert!(!bench.run(SECOND));
    assert_eq!(bench.fast.reason(), "UDP of the fast datapath is not answered any more");
}

#[test]
fn it_is_not_left_for_a_sleeve_that_frames_cannot_take_yet() {
    let mut bench = Bench::carrying();
    (bench.by_fast, bench.by_sleeve, bench.has_way) = (false, false, false);
    assert!(bench.run(SECOND));
    bench.by_sleeve = true;
    assert!(bench.run(SECOND), "the direct path was down, and nobody has heard that it is up again");
    bench.has_way = true;
    assert!(!bench.run(SECOND));
}

#[test]
fn a_router_that_comes_back_is_given_time_to_answer_by_the_fast_datapath() {
    let mut bench = Bench::carrying();
    (bench.by_fast, bench.by_sleeve) = (false, false);
    bench.fast.hold(bench.now);
    assert!(bench.run(SECOND * 10));
    bench.fast.peer_restarted(bench.now);
    // The sleeve is answered first.
    bench.by_sleeve = true;
    assert!(bench.run(SECOND / 10));
    bench.fast.greeted(hello(), bench.now);
    assert!(bench.run(SECOND / 2));
    bench.by_fast = true;
    assert!(bench.run(SECOND * 60));
}

#[test]
fn a_small_heartbeat_that_is_answered_first_does_not_condemn_the_large_ones() {
    let mut bench = Bench::carrying();
    (bench.by_fast, bench.by_sleeve) = (false, false);
    bench.fast.hold(bench.now);
    bench.run(SECOND * 10);
    bench.fast.peer_restarted(bench.now);
    bench.fast.greeted(hello(), bench.now);
    // Only the next heartbeat, which is a small one, is answered; then all are.
    let token = loop {
        bench.now = bench.now + STEP;
        if let Some(ToSend::Heartbeat(token, Size::Small)) = bench.fast.poll(&bench.config, bench.now, &bench.entropy) {
            break token;
        }
    };
    bench.fast.echoed(token, 0, bench.now);
    (bench.by_fast, bench.by_sleeve) = (true, true);
    assert!(bench.run(SECOND * 10));
}

#[test]
fn a_router_that_comes_back_without_its_fast_datapath_is_left() {
    let mut bench = Bench::carrying();
    (bench.by_fast, bench.by_sleeve) = (false, false);
    bench.fast.hold(bench.now);
    bench.run(SECOND * 10);
    bench.fast.peer_restarted(bench.now);
    bench.by_sleeve = true;
    bench.fast.greeted(hello(), bench.now);
    assert!(!bench.run(SECOND * 2));
}

#[test]
fn what_is_kept_goes_when_nobody_comes_back() {
    let mut bench = Bench::carrying();
    (bench.by_fast, bench.by_sleeve) = (false, false);
    bench.fast.hold(bench.now);
    bench.fast.peer_restarted(bench.now);
    assert!(bench.run(HOLD - SECOND));
    assert!(!bench.run(SECOND * 2));
    assert_eq!(bench.fast.plan(&bench.config), None);
}

#[test]
fn each_obstacle_is_named() {
    let obstacle = |change: fn(&mut Bench, &mut Hello)| {
        let mut bench = Bench::new();
        bench.config.secret = true;
        let mut hello = hello();
        change(&mut bench, &mut hello);
        bench.fast.greeted(hello, bench.now);
        bench.kernel_obeys();
        bench.fast.obstacle(&bench.config, bench.now).unwrap()
    };
    for (change, word) in [
        (
            (|bench, _| bench.config.ability = Ability::Off("no VXLAN".to_owned())) as fn(&mut Bench, &mut Hello),
            "no VXLAN",
        ),
        (|_, hello| hello.ready = false, "the peer's fast datapath is off"),
        (|_, hello| hello.esp = false, "the peer's kernel has no ESP"),
        (|bench, _| bench.fast.set_peer_mtu(1300), "our containers send 1340 bytes and the peer's take 1300"),
        (|_, hello| hello.to = "192.0.2.7".parse().unwrap(), "a NAT lies between: the peer sees us at 192.0.2.7"),
        (|_, hello| hello.nat = true, "a NAT lies between: 10.0.0.2 is not the peer's own address"),
        (|_, hello| hello.to = "fd00::1".parse().unwrap(), "by another protocol"),
        (|_, hello| hello.nat = true, "our UDP 6785 is not answered by its UDP 6785"),
        (
            |bench, hello| {
                bench.config.ability = Ability::Ready {
                    backend: "vxlan".to_owned(),
                    no_esp: None,
                    encap: Err("UDP 6785 is taken".to_owned()),
                    lanes: 4,
                };
                hello.nat = true;
            },
            "this host takes no ESP in UDP: UDP 6785 is taken",
        ),
        (|_, hello| (hello.nat, hello.encap) = (true, 0), "the peer takes no ESP in UDP"),
        (
            |bench, hello| {
                bench.fast.set_crowded(true);
                hello.nat = true;
            },
            "another peer behind it",
        ),
        (
            |bench, hello| {
                bench.config.secret = false;
                hello.nat = true;
            },
            "the network has no secret",
        ),
        (|_, _| (), "keys for ESP are being agreed"),
        (
            |bench, hello| {
                bench.config.secret = false;
                (hello.hears, hello.hears_full) = (false, false);
            },
            "passes in neither direction",
        ),
    ] {
        let why = obstacle(change);
        assert!(why.contains(word), "{why}");
    }
    let mut bench = Bench::new();
    assert!(bench.fast.obstacle(&bench.config, bench.now).unwrap().contains("has not said"));
    bench = Bench::carrying();
    assert_eq!(bench.fast.obstacle(&bench.config, bench.now), None);
}

#[test]
fn nothing_is_sent_before_the_kernel_does_as_planned() {
    let mut bench = Bench::new();
    bench.fast.greeted(hello(), bench.now);
    let mut sent = Vec::new();
    let mut send = |bench: &mut Bench| {
        let others = Others { sleeve_answered: None, relay: false, has_way: false };
        bench.fast.handle_timeout(&bench.config, None, others, bench.now, &bench.entropy);
        sent.extend(std::iter::from_fn(|| bench.fast.poll(&bench.config, bench.now, &bench.entropy)));
        sent.iter().any(|sent| matches!(sent, ToSend::Heartbeat(..)))
    };
    assert!(!send(&mut bench) && !bench.fast.is_sending());
    assert_eq!(bench.fast.obstacle(&bench.config, bench.now).unwrap(), "the kernel is being told of the peer");
    let remote = bench.fast.remote().unwrap();
    bench.fast.sends("10.0.0.9".parse().unwrap(), None, None, bench.now);
    assert!(!send(&mut bench), "that was another address");
    bench.fast.sends(remote, None, Some("a policy of others"), bench.now);
    assert!(!send(&mut bench) && bench.fast.obstacle(&bench.config, bench.now).unwrap().contains("a policy of others"));
    bench.fast.sends(remote, None, None, bench.now);
    assert!(send(&mut bench) && bench.fast.is_sending());
}

#[test]
fn who_has_none_greets_only_when_asked() {
    let mut bench = Bench::new();
    bench.config.ability = Ability::Off(String::new());
    assert_eq!(bench.fast.poll(&bench.config, bench.now, &bench.entropy), None);
    bench.fast.greeted(hello(), bench.now);
    let Some(ToSend::Hello(answer)) = bench.fast.poll(&bench.config, bench.now, &bench.entropy) else {
        panic!("no answer")
    };
    assert!(!answer.ready);
    assert_eq!(bench.fast.poll(&bench.config, bench.now + SECOND * 60, &bench.entropy), None);
    assert_eq!(bench.fast.deadline(&bench.config, true, bench.now), None);
}
