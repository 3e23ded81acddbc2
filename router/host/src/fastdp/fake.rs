//! A fast datapath in memory: the double of [`FastDatapath`] for tests of what drives it.
//!
//! Clones are the same one, so that a test keeps one and gives another away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft::{fastdp::Plan, id::Mac};

use super::FastDatapath;
use crate::error::HostError;

/// A fast datapath that exists only here.
#[derive(Clone, Debug, Default)]
pub struct FakeFastDatapath {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    plans: Vec<Plan>,
    settled: bool,
    mtu: Option<u32>,
    mended: Vec<String>,
    learnt: Vec<Mac>,
    used: Vec<Mac>,
    failure: Option<HostError>,
}

impl FakeFastDatapath {
    /// One that no plan was given to.
    pub fn new() -> Self {
        Self::default()
    }

    /// The plans that were applied, in their order.
    pub fn plans(&self) -> Vec<Plan> {
        self.state().plans.clone()
    }

    /// Whether the time of grace was ended.
    pub fn is_settled(&self) -> bool {
        self.state().settled
    }

    /// The MTU in bytes that was given last.
    pub fn mtu(&self) -> Option<u32> {
        self.state().mtu
    }

    /// Lets the next inspection mend something.
    pub fn mend_next(&self, what: &str) {
        self.state().mended.push(what.to_owned());
    }

    /// Changes which stations the bridge has heard.
    pub fn set_learnt(&self, mut stations: Vec<Mac>) {
        stations.sort();
        self.state().learnt = stations;
    }

    /// Lets frames have gone to these stations, until that is asked.
    pub fn set_used(&self, mut stations: Vec<Mac>) {
        stations.sort();
        self.state().used = stations;
    }

    /// Lets the next call fail.
    pub fn fail_next(&self, error: HostError) {
        self.state().failure = Some(error);
    }

    /// A panic elsewhere cannot leave the state half changed, so its lock may still be taken.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, HostError> {
        let mut state = self.state();
        state.failure.take().map_or_else(|| Ok(act(&mut state)), Err)
    }
}

impl FastDatapath for FakeFastDatapath {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn apply(&mut self, plan: &Plan) -> Result<usize, HostError> {
        self.answer(|state| {
            let same = state.plans.last() == Some(plan);
            state.plans.push(plan.clone());
            usize::from(!same)
        })
    }

    fn settle(&mut self) -> Result<usize, HostError> {
        self.answer(|state| usize::from(!std::mem::replace(&mut state.settled, true)))
    }

    fn inspect(&mut self) -> Result<Vec<String>, HostError> {
        self.answer(|state| std::mem::take(&mut state.mended))
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<(), HostError> {
        self.answer(|state| state.mtu = Some(mtu))
    }

    fn learnt(&mut self) -> Result<Vec<Mac>, HostError> {
        self.answer(|state| state.learnt.clone())
    }

    fn used(&mut self) -> Result<Vec<Mac>, HostError> {
        self.answer(|state| std::mem::take(&mut state.used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_what_was_asked_and_fails_when_told_to() {
        let kept = FakeFastDatapath::new();
        let mut given: Box<dyn FastDatapath> = Box::new(kept.clone());
        kept.fail_next(HostError::Busy);
        assert_eq!(given.apply(&Plan::default()), Err(HostError::Busy));
        assert_eq!((given.apply(&Plan::default()), given.apply(&Plan::default())), (Ok(1), Ok(0)));
        assert_eq!(kept.plans().len(), 2);

        kept.mend_next("weft-vx4 was not there");
        assert_eq!(given.inspect().unwrap(), ["weft-vx4 was not there"]);
        assert_eq!(given.inspect().unwrap(), Vec::<String>::new());
        kept.set_learnt(vec![Mac([2; 6]), Mac([0; 6])]);
        assert_eq!(given.learnt().unwrap(), [Mac([0; 6]), Mac([2; 6])]);
        kept.set_used(vec![Mac([2; 6]), Mac([0; 6])]);
        assert_eq!(given.used().unwrap(), [Mac([0; 6]), Mac([2; 6])]);
        assert_eq!(given.used().unwrap(), []);
        given.set_mtu(1400).unwrap();
        given.settle().unwrap();
        assert_eq!((kept.mtu(), kept.is_settled()), (Some(1400), true));
    }
}
