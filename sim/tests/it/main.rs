//! Tests of the simulator through its public interface: in process on paused time, once over real
//! TLS, and with real machines.

mod cloud;
mod copies;
mod disks;
mod faults;
mod groups;
mod guests_qemu;
mod guests_relay;
mod guests_simulated;
mod in_process;
mod latency;
mod persistence;
mod program;
mod protection;
mod server;
mod shapes;
mod throttling;
mod vms;
