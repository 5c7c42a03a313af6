//! The data plane's enforcement point: terminates client protocols, decides, masks, holds, records.
