//! Who is in the network and how they are joined: every peer's record of itself and its links, the graph that all records
//! make, the paths through it, and who is gone.

pub mod cost;
pub mod gone;
pub mod graph;
pub mod record;
pub mod relaying;
