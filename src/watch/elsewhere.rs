//! Stands in for `maps.rs` and `disturb.rs` on systems where the library cannot redirect functions: no process is watched
//! there.

pub(super) mod maps {
    use crate::watch::file::File;

    pub(crate) fn note(_file: &File, _addresses: &[usize]) {}
}

pub(super) mod disturb {
    use crate::watch::file::Slot;

    #[derive(Clone, Copy)]
    pub(crate) enum Place {
        BeforeAttaching,
        Inside,
        AfterDetaching,
    }

    pub(crate) fn thread(_slot: &Slot, _place: Place) {}

    pub(crate) fn conductor(_part: u64) {}
}
