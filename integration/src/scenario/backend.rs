//! What carries the frames of a scenario: how routers are launched for it, and what their status must say then.

/// What carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The sleeve alone.
    Sleeve,
    /// Kernel VXLAN in clear.
    Vxlan,
    /// Kernel VXLAN in ESP.
    VxlanEsp,
    /// Open vSwitch in clear.
    Ovs,
    /// Open vSwitch in ESP.
    OvsEsp,
}

/// Whose kernel it is tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The kernel that the tests run on.
    Host,
    /// A User-Mode-Linux kernel.
    Guest,
}

/// A backend in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, in tests and in the table.
    pub name: &'static str,
    /// What carries the frames.
    pub backend: Backend,
    /// Whose kernel.
    pub place: Place,
}

/// All that is tried, in the order of the table.
pub const COLUMNS: [Column; 6] = [
    Column { name: "sleeve", backend: Backend::Sleeve, place: Place::Host },
    Column { name: "vxlan", backend: Backend::Vxlan, place: Place::Host },
    Column { name: "sleeve-uml", backend: Backend::Sleeve, place: Place::Guest },
    Column { name: "vxlan+esp", backend: Backend::VxlanEsp, place: Place::Guest },
    Column { name: "ovs", backend: Backend::Ovs, place: Place::Guest },
    Column { name: "ovs+esp", backend: Backend::OvsEsp, place: Place::Guest },
];

/// What is tried over the sleeve in a guest too, so that others find the guest itself to be no obstacle.
const SLEEVE_IN_GUEST: [&str; 4] =
    ["connect::three_hosts", "connect::across_nat", "capture::nothing_in_clear", "mtu::becomes_narrow"];

impl Column {
    /// Why a scenario is left out here, if so.
    pub fn leaves_out(&self, scenario: &str) -> Option<&'static str> {
        let again = self.backend == Backend::Sleeve && self.place == Place::Guest;
        (again && !SLEEVE_IN_GUEST.contains(&scenario)).then_some("tried natively")
    }
}

impl Backend {
    /// Options of `weft launch` that choose it; the secret aside, see [`Self::encrypted`].
    pub fn launch_args(self) -> &'static [&'static str] {
        match self {
            Self::Sleeve => &["--fastdp=off"],
            Self::Vxlan | Self::VxlanEsp => &["--fastdp=vxlan"],
            Self::Ovs | Self::OvsEsp => &["--fastdp=ovs"],
        }
    }

    /// The method that status names once all is well.
    pub fn method(self) -> &'static str {
        if self.is_fast() { "fastdp" } else { "sleeve" }
    }

    /// Whether the network has a secret, so that frames are sealed.
    pub fn encrypted(self) -> bool {
        matches!(self, Self::Sleeve | Self::VxlanEsp | Self::OvsEsp)
    }

    /// Whether the kernel carries frames.
    pub fn is_fast(self) -> bool {
        self != Self::Sleeve
    }
}
