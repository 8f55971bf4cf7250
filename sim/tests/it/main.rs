//! Tests of the simulator through its public interface.

mod guests_qemu;
mod guests_relay;
