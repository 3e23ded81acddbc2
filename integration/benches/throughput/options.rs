//! What the environment asks for.

use std::{env, fmt, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{candidate::Kind, measure::Load};

/// How the "wire" between the hosts treats runs of segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Underlay {
    /// They pass whole, up to 64 KiB, as veth devices do by themselves.
    Veth,
    /// They are cut to the MTU before it, and may be joined again behind it.
    Nicish,
}

/// The options, see the top of the bench.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Length of each TCP run.
    pub(crate) run: Duration,
    /// How often all is measured.
    pub(crate) rounds: u32,
    /// The wire.
    pub(crate) underlay: Underlay,
    /// What is compared.
    pub(crate) kinds: Vec<Kind>,
    /// What they are loaded with.
    pub(crate) loads: Vec<Load>,
    /// Where the JSON lines go.
    pub(crate) out: Option<PathBuf>,
}

impl Options {
    /// Those of the environment.
    pub(crate) fn from_environment() -> Result<Self> {
        let (seconds, rounds): (u64, u32) = (number("BENCH_SECONDS", 5)?, number("BENCH_ROUNDS", 3)?);
        ensure!((1..=600).contains(&seconds), "BENCH_SECONDS is {seconds}: 1 to 600 is possible");
        ensure!((1..=100).contains(&rounds), "BENCH_ROUNDS is {rounds}: 1 to 100 is possible");
        let underlay = match env::var("BENCH_UNDERLAY").as_deref() {
            Err(env::VarError::NotPresent) | Ok("" | "veth") => Underlay::Veth,
            Ok("nicish") => Underlay::Nicish,
            other => bail!("BENCH_UNDERLAY is {other:?}: `veth` and `nicish` are possible"),
        };
        let usual: Vec<Kind> = Kind::all().iter().copied().filter(|kind| kind.is_usual()).collect();
        let kinds = chosen("BENCH_ONLY", Kind::all(), &usual)?;
        let loads = chosen("BENCH_LOADS", &Load::all(), &Load::all())?;
        let out = env::var_os("BENCH_OUT").filter(|path| !path.is_empty()).map(PathBuf::from);
        // cargo runs benches elsewhere than where it was called.
        let is_clear = out.as_ref().is_none_or(|path| path.is_absolute());
        ensure!(is_clear, "BENCH_OUT is {out:?}: give the whole path, from / on");
        Ok(Self { run: Duration::from_secs(seconds), rounds, underlay, kinds, loads, out })
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = match self.underlay {
            Underlay::Veth => "veth (runs of segments pass whole)",
            Underlay::Nicish => "nicish (segments of the MTU on the wire)",
        };
        write!(f, "{} rounds, TCP for {} s each, underlay {wire}", self.rounds, self.run.as_secs())
    }
}

/// Those of `all` that a variable names, with commas between them; the usual ones if it names none.
fn chosen<T: Copy + fmt::Display>(variable: &str, all: &[T], usual: &[T]) -> Result<Vec<T>> {
    let names = env::var(variable).unwrap_or_default();
    if names.is_empty() {
        return Ok(usual.to_vec());
    }
    let known: Vec<String> = all.iter().map(T::to_string).collect();
    let wrong = names.split(',').find(|name| !known.iter().any(|known| known == name));
    ensure!(wrong.is_none(), "{variable} is `{names}`: possible are {}", known.join(","));
    Ok(all.iter().copied().filter(|one| names.split(',').any(|name| name == one.to_string())).collect())
}

fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str, default: T) -> Result<T> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name} is `{text}`")),
        Ok(_) | Err(_) => Ok(default),
    }
}
