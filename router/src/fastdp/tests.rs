use weft::id::Mac;
use weft_host::FakeFastDatapath;

use super::*;

const PEER: PeerName = PeerName([2, 0, 0, 0, 0, 2]);
const STATION: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn plan(carries: bool) -> Arc<Plan> {
    let planned = PlannedPeer { remote: "192.0.2.2".parse().unwrap(), carries, protection: Protection::Clear };
    Arc::new(Plan { peers: [(PEER, planned)].into(), stations: [(STATION, PEER)].into() })
}

fn worker(datapath: &FakeFastDatapath) -> (Worker, mpsc::Receiver<Input>) {
    let (told, inputs) = mpsc::channel(8);
    let (counts, _) = watch::channel(FastCounts::default());
    (Worker::new(Box::new(datapath.clone()), None, told, counts), inputs)
}

#[test]
fn of_plans_that_queue_up_only_the_newest_counts_and_a_failed_one_is_tried_again() {
    let datapath = FakeFastDatapath::new();
    datapath.fail_next(HostError::Busy);
    let (worker, _inputs) = worker(&datapath);
    let (orders, queue) = blocking::channel();
    orders.send(Order::Plan(plan(false))).unwrap();
    orders.send(Order::Plan(plan(true))).unwrap();
    let thread = std::thread::spawn(move || worker.work(&queue));
    let deadline = Instant::now() + Duration::from_secs(20);
    while datapath.plans().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    orders.send(Order::Mtu(1280)).unwrap();
    drop(orders);
    thread.join().unwrap();
    assert!(datapath.plans().iter().all(|applied| *applied == *plan(true)), "{:?}", datapath.plans());
    assert!(!datapath.plans().is_empty(), "the first time failed");
    assert_eq!(datapath.mtu(), Some(1280));
    assert!(!datapath.is_settled(), "what an earlier router left has its time");
}

#[test]
fn how_the_kernel_sends_is_told_once_and_again_when_it_changes() {
    let datapath = FakeFastDatapath::new();
    let (mut worker, mut inputs) = worker(&datapath);
    let told = Input::FastInstalled { peer: PEER, remote: "192.0.2.2".parse().unwrap(), spi: None, error: None };
    for carries in [false, true] {
        worker.plan = plan(carries);
        worker.apply().unwrap();
    }
    assert_eq!((inputs.try_recv().as_ref(), inputs.try_recv().is_err()), (Ok(&told), true));
    for planned in [Arc::default(), plan(false)] {
        worker.plan = planned;
        worker.apply().unwrap();
    }
    assert_eq!((inputs.try_recv(), inputs.try_recv().is_err()), (Ok(told), true));
}

#[test]
fn what_the_bridge_heard_is_told_and_what_was_found_goes_after_its_time() {
    let datapath = FakeFastDatapath::new();
    datapath.set_learnt(vec![STATION]);
    datapath.mend_next("weft-vx4 was removed");
    let (mut worker, mut inputs) = worker(&datapath);
    worker.inspect().unwrap();
    assert!(inputs.try_recv().is_err(), "not yet");
    worker.counted -= COUNT_EVERY;
    worker.started -= GRACE;
    worker.inspect().unwrap();
    let station = Input::Station { mac: STATION, addresses: Vec::new(), attached: false };
    assert_eq!(inputs.try_recv(), Ok(station));
    assert!(datapath.is_settled());
}

#[test]
fn to_whom_frames_went_is_told_at_each_look() {
    let datapath = FakeFastDatapath::new();
    let (mut worker, mut inputs) = worker(&datapath);
    worker.plan = plan(true);
    datapath.set_used(vec![STATION, Mac([2; 6])]);
    worker.inspect().unwrap();
    assert_eq!(inputs.try_recv(), Ok(Input::Carried { peers: vec![PEER] }));
    worker.inspect().unwrap();
    assert!(inputs.try_recv().is_err(), "nothing went");
}

#[test]
fn modes_have_names() {
    for mode in [Mode::Auto, Mode::Vxlan, Mode::Ovs, Mode::Off] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert!("fast".parse::<Mode>().unwrap_err().to_string().contains("give auto, vxlan, ovs or off"));
}
