//! Statements are parsed once per connection: parsing costs as much as a small write itself.

use rusqlite::{Connection, Params, Result, Row};

/// As the methods of [`Connection`] without `_cached`.
pub(super) trait Cached {
    fn execute_cached<P: Params>(&self, sql: &str, params: P) -> Result<usize>;
    fn query_row_cached<T, P: Params, F: FnOnce(&Row<'_>) -> Result<T>>(
        &self,
        sql: &str,
        params: P,
        f: F,
    ) -> Result<T>;
}

impl Cached for Connection {
    fn execute_cached<P: Params>(&self, sql: &str, params: P) -> Result<usize> {
        self.prepare_cached(sql)?.execute(params)
    }

    fn query_row_cached<T, P: Params, F: FnOnce(&Row<'_>) -> Result<T>>(
        &self,
        sql: &str,
        params: P,
        f: F,
    ) -> Result<T> {
        self.prepare_cached(sql)?.query_row(params, f)
    }
}
