//! Ping, with all that it tells: losses, duplicates, round trips, and the longest silence of a long run.

use std::{
    io::{BufRead, BufReader},
    net::IpAddr,
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    command::Run,
    namespace::Namespace,
    wait::{patience, wait_until},
};

/// For an answer to come after the last request was sent, where one may be missing.
const LATE: Duration = Duration::from_millis(900);
/// The same where none may: as long as a starved machine may need.
const LATE_AT_MOST: Duration = Duration::from_secs(10);

/// A ping to be sent.
#[derive(Clone, Debug)]
pub struct Ping {
    namespace: Namespace,
    to: IpAddr,
    count: u32,
    interval: Duration,
    size: usize,
    whole: bool,
}

/// A ping that goes on until it is stopped.
#[derive(Debug)]
pub struct RunningPing {
    child: Child,
    started: Duration,
    output: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    what: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// Answers beyond the first to the same request.
    pub duplicates: u32,
    /// Round-trip time of each answer.
    pub round_trips: Vec<Duration>,
    /// When each answer came, since the epoch.
    pub times: Vec<Duration>,
    /// What ping said besides, such as errors from routers on the way.
    pub errors: Vec<String>,
}

impl Ping {
    /// One echo request of 56 bytes.
    pub fn new(namespace: &Namespace, to: IpAddr) -> Self {
        let interval = Duration::from_millis(50);
        Self { namespace: namespace.clone(), to, count: 1, interval, size: 56, whole: false }
    }

    /// Sends `count` requests.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Waits so long between requests.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Carries `size` bytes.
    #[must_use]
    pub fn size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Forbids fragmentation.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Sends them all and waits for the answers; none at all is no error here.
    pub fn send(&self) -> Result<Answers> {
        self.answered_within(LATE)
    }

    /// The same, with so much time for the last answers. By itself ping waits for one interval, which on a starved machine is
    /// too little; with a deadline it goes on sending until so many were answered. Those further requests do not count.
    fn answered_within(&self, late: Duration) -> Result<Answers> {
        let span = self.interval * self.count + late;
        let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
        let run = self.run().args(["-c", &self.count.to_string(), "-w", &seconds.to_string()]);
        let done = run.deadline(span + Duration::from_secs(10)).output()?;
        // ping ends with 1 when nothing was answered, with 2 when it could not even be sent
        ensure!(done.status.code().is_some(), "`{}`: {}", done.command, done.status);
        let mut answers = parse(&done.stdout, self.count)?;
        answers.errors.extend(done.stderr.lines().map(str::to_owned));
        Ok(answers)
    }

    /// Sends them, and expects each to be answered exactly once.
    pub fn all_answered(&self) -> Result<Answers> {
        let answers = self.answered_within(patience(LATE_AT_MOST))?;
        let all = answers.received == self.count && answers.duplicates == 0;
        ensure!(all, "ping from {} to {}: {answers:?}", self.namespace.name(), self.to);
        Ok(answers)
    }

    /// Sends one after another until there was an answer, and gives the number of requests it took.
    pub fn until_answered(&self, deadline: Duration) -> Result<u32> {
        let mut sent = 0;
        wait_until(&format!("an answer from {} to {}", self.to, self.namespace.name()), deadline, || {
            sent += 1;
            Ok(self.clone().count(1).send()?.received == 1)
        })?;
        Ok(sent)
    }

    /// Starts it for as long as the result lives.
    pub fn start(&self) -> Result<RunningPing> {
        let run = self.run();
        let mut child = run.spawn(Stdio::piped(), Stdio::null())?;
        let lines = BufReader::new(child.stdout.take().context("ping's output")?).lines();
        let output = Arc::<Mutex<String>>::default();
        let sink = Arc::clone(&output);
        let reader = thread::spawn(move || lines.map_while(Result::ok).for_each(|line| *lock(&sink) += &(line + "\n")));
        Ok(RunningPing { child, started: now()?, output, reader, what: run.to_string() })
    }

    fn run(&self) -> Run {
        let interval = format!("{:.3}", self.interval.as_secs_f64());
        let run = self.namespace.run("ping").args(["-n", "-D", "-i", &interval, "-s", &self.size.to_string()]);
        run.args(["-M", if self.whole { "do" } else { "dont" }]).arg(self.to.to_string()).env("LC_ALL", "C")
    }
}

impl RunningPing {
    /// Answers until now.
    pub fn answers(&self) -> Result<Answers> {
        parse(&lock(&self.output), u32::MAX)
    }

    /// Waits until an answer comes from now on.
    pub fn next_answer(&self, deadline: Duration) -> Result<Duration> {
        let before = self.answers()?.received;
        wait_until(&format!("a new answer to `{}`", self.what), deadline, || Ok(self.answers()?.received > before))
    }

    /// Ends it; the result has the longest time without an answer.
    pub fn stop(mut self) -> Result<(Answers, Duration)> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        self.child.wait()?;
        wait_until("all of ping's output is read", Duration::from_secs(5), || Ok(self.reader.is_finished()))?;
        let answers = self.answers()?;
        let ends = [self.started].into_iter().chain(answers.times.iter().copied());
        let silences = ends.zip(answers.times.iter().copied().chain([now()?]));
        let longest = silences.map(|(from, to)| to.saturating_sub(from)).max().unwrap_or_default();
        Ok((answers, longest))
    }
}

impl Drop for RunningPing {
    fn drop(&mut self) {
        // Stopped already, or given up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock(text: &Mutex<String>) -> MutexGuard<'_, String> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// What ping printed of the first `count` requests.
fn parse(text: &str, count: u32) -> Result<Answers> {
    let mut answers = parse_lines(text, count);
    let summary = text.lines().find(|line| line.contains("packets transmitted"));
    let sent = match summary.and_then(|line| line.split(' ').next()) {
        Some(sent) => sent.parse().with_context(|| format!("ping printed {text}"))?,
        None => 0,
    };
    answers.sent = count.min(sent);
    Ok(answers)
}

fn parse_lines(text: &str, count: u32) -> Answers {
    let mut answers = Answers::default();
    for line in text.lines().filter(|line| line.contains("icmp_seq=") || line.starts_with("From ")) {
        let value = |key: &str| line.split_once(key).and_then(|(_, rest)| rest.split([' ', ']']).next());
        if value("icmp_seq=").and_then(|number| number.parse().ok()).is_some_and(|number: u32| number > count) {
            continue;
        }
        match (value("time=").map(str::parse::<f64>), value("[").map(str::parse::<f64>)) {
            (Some(Ok(_)), _) if line.contains("DUP!") => answers.duplicates += 1,
            (Some(Ok(millis)), Some(Ok(at))) => {
                answers.received += 1;
                answers.round_trips.push(Duration::from_secs_f64(millis / 1000.0));
                answers.times.push(Duration::from_secs_f64(at));
            }
            _ => answers.errors.push(line.to_owned()),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_ping_is_understood() {
        let text = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
            [1700000000.500000] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=1.5 ms\n\
            [1700000000.500001] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=1.6 ms (DUP!)\n\
            [1700000001.5] From 10.0.0.1 icmp_seq=2 Destination Host Unreachable\n\n\
            --- 10.0.0.2 ping statistics ---\n\
            2 packets transmitted, 1 received, +1 duplicates, +1 errors, 50% packet loss, time 1001ms\n";
        let answers = parse(text, 2).unwrap();
        assert_eq!((answers.sent, answers.received, answers.duplicates, answers.errors.len()), (2, 1, 1, 1));
        assert_eq!(answers.round_trips, [Duration::from_micros(1500)]);
        assert_eq!(answers.times, [Duration::from_millis(1_700_000_000_500)]);
    }

    #[test]
    fn requests_beyond_those_that_were_asked_for_do_not_make_up_for_a_loss() {
        let answer =
            |number: u32| format!("[1700000000.5] 64 bytes from 10.0.0.2: icmp_seq={number} ttl=64 time=1 ms\n");
        let text = answer(1) + &answer(3) + "3 packets transmitted, 2 received, 33% packet loss, time 1001ms\n";
        let answers = parse(&text, 2).unwrap();
        assert_eq!((answers.sent, answers.received), (2, 1));
    }
}
