//! Made-up histories by the thousand.
