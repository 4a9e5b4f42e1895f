//! One suite per seam: what every implementation must do, the real ones and the simulated ones.

