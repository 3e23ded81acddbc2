use std::{fs, path::Path, sync::Arc};

use domain::base::{MessageBuilder, Name, Rtype};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

use super::*;

fn query(name: &str) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(7);
    let mut question = builder.question();
    question.push((Name::vec_from_str(name).unwrap(), Rtype::A)).unwrap();
    question.finish()
}

fn reply(question: &[u8], rcode: Rcode) -> Vec<u8> {
    let question = Message::from_slice(question).unwrap();
    MessageBuilder::new_vec().start_answer(question, rcode).unwrap().finish()
}

/// A server that answers each question with what `answer` makes of it, in order.
async fn server(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut bytes = [0; 1500];
        loop {
            let (len, from) = socket.recv_from(&mut bytes).await.unwrap();
            for answer in answer(&bytes[..len]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (address, task)
}

fn upstream(conf: &Path) -> Upstream {
    Upstream::new(conf.to_owned())
}

async fn asked(upstream: &Upstream, servers: &[SocketAddr]) -> Option<Message<Vec<u8>>> {
    let answer = upstream.ask(&query("example.com"), Transport::Udp, servers, &Dice::new()).await?;
    Some(Message::from_octets(answer).unwrap())
}

#[tokio::test]
async fn only_the_answer_to_the_very_question_is_taken() {
    let (good, _task) = server(|question| {
        let mut other_id = reply(question, Rcode::NXDOMAIN);
        other_id[0] ^= 1;
        let mut other_name = query("example.net");
        other_name[..2].copy_from_slice(&question[..2]);
        let other_name = reply(&other_name, Rcode::NXDOMAIN);
        vec![vec![1, 2, 3], other_id, other_name, question.to_vec(), reply(question, Rcode::NOERROR)]
    })
    .await;
    let answer = asked(&upstream(Path::new("/nowhere")), &[good]).await.unwrap();
    assert_eq!((answer.header().rcode(), answer.header().id(), answer.header().ra()), (Rcode::NOERROR, 7, true));
}

#[tokio::test]
async fn numbers_and_ports_differ_from_question_to_question() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let (address, _task) = server(move |question| {
        noted.lock().unwrap().push([question[0], question[1]]);
        vec![reply(question, Rcode::NOERROR)]
    })
    .await;
    let upstream = upstream(Path::new("/nowhere"));
    for _ in 0..20 {
        asked(&upstream, &[address]).await.unwrap();
    }
    let mut ids = seen.lock().unwrap().clone();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() > 15, "{ids:?}");
}

#[tokio::test]
async fn a_server_that_is_silent_dead_or_failing_is_passed_over_and_the_one_that_works_comes_first() {
    let (silent, _silent) = server(|_| Vec::new()).await;
    let (failing, _failing) = server(|question| vec![reply(question, Rcode::SERVFAIL)]).await;
    let (good, _good) = server(|question| vec![reply(question, Rcode::NXDOMAIN)]).await;
    let dead = {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let upstream = upstream(Path::new("/nowhere"));
    let began = Instant::now();
    let answer = asked(&upstream, &[dead, failing, silent, good]).await.unwrap();
    assert_eq!(answer.header().rcode(), Rcode::NXDOMAIN, "no such name is an answer");
    assert!(began.elapsed() >= PATIENCE_WITH_ONE && began.elapsed() < PATIENCE + PATIENCE, "{:?}", began.elapsed());
    assert_eq!(upstream.lock().preferred, Some(good));
    let answer = asked(&upstream, &[dead, failing]).await.unwrap();
    assert_eq!(answer.header().rcode(), Rcode::SERVFAIL);
    assert!(asked(&upstream, &[dead]).await.is_none() && asked(&upstream, &[]).await.is_none());
}

#[tokio::test]
async fn a_question_by_tcp_is_asked_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut question).await.unwrap();
        let answer = reply(&question, Rcode::NOERROR);
        stream.write_u16(answer.len() as u16).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    });
    let upstream = upstream(Path::new("/nowhere"));
    let answer = upstream.ask(&query("example.com"), Transport::Tcp, &[address], &Dice::new()).await.unwrap();
    assert_eq!(answer[..2], [0, 7]);
}

#[test]
fn no_client_has_all_the_room() {
    let upstream = upstream(Path::new("/nowhere"));
    let one: IpAddr = [10, 0, 0, 1].into();
    let rooms: Vec<_> = (0..QUESTIONS_OF_ONE_MAX).map(|_| upstream.admit(one).unwrap()).collect();
    assert!(upstream.admit(one).is_none());
    let others = (2..).map(|last| IpAddr::from([10, 0, 0, last])).take(QUESTIONS_MAX / QUESTIONS_OF_ONE_MAX);
    let more: Vec<_> = others.flat_map(|other| (0..QUESTIONS_OF_ONE_MAX).map_while(move |_| Some(other))).collect();
    let more: Vec<_> = more.into_iter().filter_map(|other| upstream.admit(other)).collect();
    assert_eq!(rooms.len() + more.len(), QUESTIONS_MAX);
    drop(rooms);
    assert!(upstream.admit(one).is_some());
    drop(more);
    let state = upstream.lock();
    assert_eq!((state.total, state.under_way.len()), (0, 0));
}

#[test]
fn we_do_not_ask_ourselves() {
    let scratch = tempfile::tempdir().unwrap();
    let conf = scratch.path().join("resolv.conf");
    fs::write(&conf, "nameserver 10.32.0.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
    let upstream = upstream(&conf);
    let own: SocketAddr = "10.32.0.1:53".parse().unwrap();
    let [first, second]: [SocketAddr; 2] = ["192.0.2.1:53", "192.0.2.2:53"].map(|text| text.parse().unwrap());
    assert_eq!(upstream.servers(&[own]), [first, second]);
    upstream.lock().preferred = Some(second);
    assert_eq!(upstream.servers(&[own]), [second, first]);
    upstream.lock().preferred = Some(own);
    assert_eq!(upstream.servers(&[own]), [first, second]);
}
