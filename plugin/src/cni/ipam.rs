//! Where addresses come from: the network itself, or another plugin.

use super::{
    call::{Attachment, Verb},
    delegate,
    failure::Failure,
    outcome::Outcome,
    own,
    session::Session,
};

/// Gives an interface its addresses. `is_new` says that there is no such interface yet: then what another plugin remembers of it is of
/// an ADD that was broken off.
pub(super) fn add(session: &Session<'_>, attachment: &Attachment, is_new: bool) -> Result<Outcome, Failure> {
    if session.config.is_own_ipam() {
        return own::add(session, attachment);
    }
    delegate::add(session).or_else(|failure| {
        if !is_new || delegate::run(session, Verb::Del).is_err() {
            return Err(failure);
        }
        delegate::add(session)
    })
}

/// Takes them back.
pub(super) fn del(session: &Session<'_>, attachment: &Attachment) -> Result<(), Failure> {
    if session.config.is_own_ipam() { own::del(session, attachment) } else { delegated(session, Verb::Del) }
}

/// Whether the interface still has them.
pub(super) fn check(session: &Session<'_>, attachment: &Attachment, added: &Outcome) -> Result<(), Failure> {
    if session.config.is_own_ipam() { own::check(session, attachment, added) } else { delegated(session, Verb::Check) }
}

/// Takes back those of interfaces that are no more.
pub(super) fn gc(session: &Session<'_>) -> Result<(), Failure> {
    if session.config.is_own_ipam() { own::gc(session) } else { delegated(session, Verb::Gc) }
}

/// Whether there would be any.
pub(super) fn status(session: &Session<'_>) -> Result<(), Failure> {
    if session.config.is_own_ipam() { own::status(session) } else { delegated(session, Verb::Status) }
}

fn delegated(session: &Session<'_>, verb: Verb) -> Result<(), Failure> {
    delegate::run(session, verb).map(drop)
}

/// The verbs of `weft-ipam`, called by another plugin for its own device.
pub(super) mod alone {
    use super::{
        super::network::added,
        super::{
            call::{self, Verb},
            failure::Failure,
            outcome::Outcome,
            own,
            session::Session,
        },
    };

    pub(crate) fn add(session: &Session<'_>) -> Result<Outcome, Failure> {
        let attachment = call::attachment(Verb::Add, session.env)?;
        session.catch_up()?;
        own::add(session, &attachment)
    }

    pub(crate) fn del(session: &Session<'_>) -> Result<(), Failure> {
        own::del(session, &call::attachment(Verb::Del, session.env)?)
    }

    pub(crate) fn check(session: &Session<'_>) -> Result<(), Failure> {
        let attachment = call::attachment(Verb::Check, session.env)?;
        own::check(session, &attachment, &added(session, &attachment)?)
    }
}
