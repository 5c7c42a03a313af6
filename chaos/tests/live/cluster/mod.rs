//! The control plane as a cluster of processes, and what may befall it. What clients were told must fit together afterwards.

mod alone;
