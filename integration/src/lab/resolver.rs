//! A client of name servers, and a small server of its own names that others are forwarded to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use domain::{
    base::{Message, MessageBuilder, Name, Rtype, iana::Rcode},
    rdata::{A, AllRecordData, Mx, Ptr},
};

use super::{
    command::Run,
    namespace::{Namespace, join},
    wait::patience,
};

/// How long an answer may take: more than a server that forwards waits for others.
const PATIENCE: Duration = Duration::from_secs(6);
/// How soon a client asks again by UDP.
const AGAIN_AFTER: Duration = Duration::from_millis(1000);
/// How often a server looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);
const PORT: u16 = 53;

/// Asks one server, from one namespace.
#[derive(Clone, Debug)]
pub struct Resolver {
    namespace: Namespace,
    server: SocketAddr,
}

/// A shell script in a namespace whose /etc/resolv.conf says this, so that the C library asks whom it names. The file is
/// made in `dir`.
pub fn with_resolv_conf(namespace: &Namespace, dir: &Path, conf: &str, script: &str) -> Result<Run> {
    let path = dir.join(format!("resolv-{}.conf", namespace.name()));
    fs::write(&path, conf).with_context(|| path.display().to_string())?;
    let script = format!("mount --bind {} /etc/resolv.conf && {script}", path.display());
    Ok(namespace.run("sh").args(["-c", &script]))
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response code, as `NOERROR`.
    pub code: String,
    /// The data of the answer's records, in order.
    pub records: Vec<String>,
    /// The answer was cut.
    pub truncated: bool,
    /// The server speaks for the name itself.
    pub authoritative: bool,
    /// Bytes of the message.
    pub len: usize,
}

impl Answer {
    /// The records, whatever their order.
    pub fn set(&self) -> BTreeSet<&str> {
        self.records.iter().map(String::as_str).collect()
    }
}

impl Resolver {
    /// A client in `namespace` of the server at `server`.
    pub fn new(namespace: &Namespace, server: impl Into<IpAddr>) -> Self {
        Self { namespace: namespace.clone(), server: SocketAddr::new(server.into(), PORT) }
    }

    /// As a stub resolver does it: by UDP, and by TCP if that was cut.
    pub fn lookup(&self, name: &str, kind: Rtype) -> Result<Answer> {
        let answer = self.by_udp(name, kind, None)?;
        if answer.truncated { self.by_tcp(name, kind) } else { Ok(answer) }
    }

    /// By UDP, taking answers of so many bytes.
    pub fn by_udp(&self, name: &str, kind: Rtype, size: Option<u16>) -> Result<Answer> {
        let (query, server) = (query(name, kind, size)?, self.server);
        let bytes = self.namespace.within(move || {
            let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(AGAIN_AFTER))?;
            let (began, mut bytes) = (Instant::now(), vec![0; 65536]);
            loop {
                // Refused at once where nobody listens; a datagram may be lost.
                match socket.send(&query).and_then(|_| socket.recv(&mut bytes)) {
                    Ok(len) => {
                        bytes.truncate(len);
                        return Ok(bytes);
                    }
                    Err(error) if began.elapsed() > patience(PATIENCE) => {
                        return Err(error).with_context(|| format!("no answer from {server}"));
                    }
                    Err(_) => thread::sleep(POLL),
                }
            }
        })?;
        read(&bytes).with_context(|| format!("{name} of {server}"))
    }

    /// By TCP.
    pub fn by_tcp(&self, name: &str, kind: Rtype) -> Result<Answer> {
        let (query, server) = (query(name, kind, None)?, self.server);
        let bytes = self.namespace.within(move || {
            let mut stream = TcpStream::connect_timeout(&server, patience(PATIENCE))?;
            stream.set_read_timeout(Some(patience(PATIENCE)))?;
            write_message(&mut stream, &query)?;
            read_message(&mut stream).with_context(|| format!("no answer from {server}"))
        })?;
        read(&bytes).with_context(|| format!("{name} of {server}"))
    }

    /// Expects these addresses of a name, in any order, whole.
    pub fn expect(&self, name: &str, kind: Rtype, expected: &[&str]) -> Result<()> {
        let answer = self.lookup(name, kind)?;
        let is_so = answer.code == "NOERROR" && answer.set() == expected.iter().copied().collect();
        ensure!(is_so && answer.records.len() == expected.len(), "{name} {kind}: {answer:?} instead of {expected:?}");
        Ok(())
    }

    /// Expects this response code and no records.
    pub fn expect_none(&self, name: &str, kind: Rtype, code: &str) -> Result<()> {
        let answer = self.lookup(name, kind)?;
        ensure!(answer.code == code && answer.records.is_empty(), "{name} {kind}: {answer:?} instead of {code}");
        Ok(())
    }

    /// Whether anybody answers at all within a second.
    pub fn is_answered(&self) -> Result<bool> {
        let (query, server) = (query("weft.local", Rtype::SOA, None)?, self.server);
        self.namespace.within(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            Ok(socket.send(&query).and_then(|_| socket.recv(&mut [0; 512])).is_ok())
        })
    }
}

/// The name by which an IPv4 address is asked for.
pub fn reverse(address: &str) -> Result<String> {
    let [a, b, c, d] = address.parse::<Ipv4Addr>()?.octets();
    Ok(format!("{d}.{c}.{b}.{a}.in-addr.arpa"))
}

/// A server of a few names on port 53 of an address; ends when dropped.
#[derive(Debug)]
pub struct Upstream {
    end: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// Names with their addresses; all others do not exist, but for `mail.example`, which has a mail server, and 8.8.8.8.
pub type Names = BTreeMap<String, Vec<Ipv4Addr>>;

impl Upstream {
    /// Starts in `namespace` at `address`.
    pub fn start(namespace: &Namespace, address: Ipv4Addr, names: Names) -> Result<Self> {
        let (end, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (udp, tcp) = namespace.within(move || {
            let udp = UdpSocket::bind((address, PORT))?;
            udp.set_read_timeout(Some(POLL))?;
            let tcp = TcpListener::bind((address, PORT))?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        })?;
        let (names, counted, told) = (Arc::new(names), asked.clone(), end.clone());
        let of_tcp = names.clone();
        let by_udp = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !told.load(Ordering::Relaxed) {
                match udp.recv_from(&mut bytes) {
                    Ok((len, from)) => {
                        counted.fetch_add(1, Ordering::Relaxed);
                        udp.send_to(&answer(&bytes[..len], &names, Some(512))?, from)?;
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        let told = end.clone();
        let by_tcp = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    thread::sleep(POLL);
                    continue;
                };
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                if let Ok(query) = read_message(&mut stream) {
                    write_message(&mut stream, &answer(&query, &of_tcp, None)?)?;
                }
            }
            Ok(())
        });
        Ok(Self { end, asked, threads: vec![by_udp, by_tcp] })
    }

    /// How many questions came by UDP.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends it; fails if it had failed.
    pub fn stop(mut self) -> Result<()> {
        self.end.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.threads).into_iter().try_for_each(join)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn query(name: &str, kind: Rtype, size: Option<u16>) -> Result<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(u16::try_from(std::process::id() & 0xffff)?);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((Name::vec_from_str(name)?, kind))?;
    let mut additional = question.additional();
    if let Some(size) = size {
        additional.opt(|opt| {
            opt.set_udp_payload_size(size);
            Ok(())
        })?;
    }
    Ok(additional.finish())
}

fn read(bytes: &[u8]) -> Result<Answer> {
    let Ok(message) = Message::from_slice(bytes) else { bail!("{} bytes are no message", bytes.len()) };
    ensure!(message.header().qr() && message.header().ra(), "an answer of somebody who recurses");
    let records = message.answer()?.limit_to::<AllRecordData<_, _>>();
    let records = records.map(|record| Ok(record?.data().to_string())).collect::<Result<Vec<_>>>()?;
    Ok(Answer {
        code: message.header().rcode().to_string(),
        records,
        truncated: message.header().tc(),
        authoritative: message.header().aa(),
        len: bytes.len(),
    })
}

fn answer(bytes: &[u8], names: &Names, limit: Option<usize>) -> Result<Vec<u8>> {
    let Ok(query) = Message::from_slice(bytes) else { bail!("no query") };
    let question = query.sole_question()?;
    let name = question.qname().to_string().to_lowercase();
    let mail = (name == "mail.example").then_some("mx.example");
    let reverse = (name == "8.8.8.8.in-addr.arpa").then_some("dns.example");
    let addresses = names.get(&name);
    let is_known = addresses.is_some() || mail.is_some() || reverse.is_some();
    let mut builder = MessageBuilder::new_vec();
    builder.set_push_limit(limit.unwrap_or(65535));
    builder.header_mut().set_ra(true);
    let mut answer = builder.start_answer(query, if is_known { Rcode::NOERROR } else { Rcode::NXDOMAIN })?;
    let name = question.qname();
    let pushed = match question.qtype() {
        Rtype::A => addresses.into_iter().flatten().try_for_each(|address| answer.push((name, 60, A::new(*address)))),
        Rtype::MX => mail.into_iter().try_for_each(|to| {
            answer.push((name, 60, Mx::new(10, Name::vec_from_str(to).unwrap_or_else(|_| Name::root_vec()))))
        }),
        Rtype::PTR => reverse.into_iter().try_for_each(|to| {
            answer.push((name, 60, Ptr::new(Name::vec_from_str(to).unwrap_or_else(|_| Name::root_vec()))))
        }),
        _ => Ok(()),
    };
    answer.header_mut().set_tc(pushed.is_err());
    Ok(answer.finish())
}

fn write_message(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let len = u16::try_from(bytes.len())?;
    Ok(stream.write_all(&[&len.to_be_bytes()[..], bytes].concat())?)
}

fn read_message(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut bytes = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
