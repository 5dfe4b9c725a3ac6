//! The numbers everything else talks about, each a type of its own so that they cannot be mixed up.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The one after this; the last one, which only a damaged file can name, has none.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    };
}

number! {
    /// How many steps are committed; also the index of the step that starts from that state.
    Step(u64)
}
number! {
    /// One fixed slice of the global batch.
    Lane(u32)
}
number! {
    /// One membership of the run. 0 is before the first.
    Generation(u64)
}
number! {
    /// A trainer's place in the world of its generation.
    Rank(u32)
}
