-- The number of an attempt is that of a gateway. A leg that came in was sent to none.
UPDATE legs SET attempt = 0 WHERE side = 'A';
