#!lua
-- Note that a file's object is about to be in storage, before its record can be.
-- ARGV: id key
redis.call('ZADD', K.files_announced(), now_ms(), ARGV[1] .. ' ' .. ARGV[2])
return 1
