//! What tunnels share: other upgrades, CONNECT, faults, drain.
