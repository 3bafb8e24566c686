// Plivo's Node SDK, as it comes from npm, against the server that BASE_URL names. Each function of `tests` is a test;
// its name states the fact. The last line is `N passed, N failed`.
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const { randomUUID } = require('node:crypto');
const { once } = require('node:events');
const http = require('node:http');
const path = require('node:path');
const axios = require('axios');
const plivo = require('plivo');
const { use } = require('./base_url.js');

const { BASE_URL, STRICT_URL, DATABASE, AUTH_ID, AUTH_TOKEN, BUSY_ID, SUBACCOUNT, SUBACCOUNT_TOKEN } = process.env;
use(BASE_URL);
const sessions = new plivo.Client(AUTH_ID, AUTH_TOKEN).maskingSession;

const PARAMETERS = {
  sessionExpiry: 600,
  callTimeLimit: 1200,
  record: false,
  recordFileFormat: 'wav',
  recordingCallbackUrl: 'https://example.com/recording',
  initiateCallToFirstParty: false,
  callbackUrl: 'https://example.com/events',
  callbackMethod: 'GET',
  ringTimeout: 30,
  firstPartyPlayUrl: 'https://example.com/first.mp3',
  secondPartyPlayUrl: 'https://example.com/second.mp3',
  recordingCallbackMethod: 'GET',
  isPinAuthenticationRequired: true,
  generatePin: false,
  generatePinLength: 6,
  firstPartyPin: '773456',
  secondPartyPin: '884321',
  pinPromptPlay: 'https://example.com/prompt.mp3',
  pinRetry: 2,
  pinRetryWait: 7,
  incorrectPinPlay: 'https://example.com/incorrect.mp3',
  unknownCallerPlay: 'https://example.com/unknown.mp3',
  subaccount: SUBACCOUNT,
  geomatch: false,
  createSessionWithSingleParty: false,
  virtualNumberCooloffPeriod: 1,
  forcePinAuthentication: true,
};
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

// Two numbers that no other test has.
let made = 0;
const parties = () => [`+1212556${String((made += 2)).padStart(4, '0')}`, `+1212556${String(made + 1).padStart(4, '0')}`];
const created = (parameters = {}) => sessions.createMaskingSession(...parties(), { ...parameters });

// The SDK's classes do not survive its own compilation: what is thrown has a status and the error's text.
const refused = async (status, text, call) => {
  const error = await Promise.resolve()
    .then(call)
    .then(
      (answer) => assert.fail(`${status} is missing: ${JSON.stringify(answer)}`),
      (error) => error,
    );
  if (error instanceof assert.AssertionError) throw error;
  assert.equal(error.status, status, String(error));
  assert.ok(error.message.startsWith(text), error.message);
  assert.match(error.apiID, /^[0-9a-f-]{36}$/);
};

// All answers as they came while `work` was done; `lose` of them reach the SDK as a 503. A header goes with each request.
const watched = async (work, { headers = {}, lose = 0 } = {}) => {
  const adapter = axios.defaults.adapter;
  const answers = [];
  const keep = (answer) => {
    answers.push({ status: answer.status, headers: answer.headers, body: JSON.parse(answer.data) });
  };
  axios.defaults.adapter = async (config) => {
    for (const [name, value] of Object.entries(headers)) config.headers.set(name, value);
    const answer = await adapter(config).catch((error) => {
      if (error.response) keep(error.response);
      throw error;
    });
    keep(answer);
    if (answers.length <= lose) {
      throw Object.assign(new Error('lost'), { config, response: { ...answer, status: 503 } });
    }
    return answer;
  };
  try {
    await work();
  } finally {
    axios.defaults.adapter = adapter;
  }
  return answers;
};
const statuses = (answers) => answers.map((answer) => answer.status);

// What the server cannot do without: it fails until it is given back.
const turn = (where) => execFileSync('python3', [path.join(__dirname, 'database.py'), where, DATABASE]);

const tests = {
  async create_reads_every_parameter() {
    const [first, second] = parties();
    const answer = await sessions.createMaskingSession(first, second, { ...PARAMETERS });
    assert.equal(answer.message, 'Session created');
    assert.match(answer.apiId, /^[0-9a-f-]{36}$/);
    assert.equal(answer.virtualNumber, `+${answer.session.virtualNumber}`);
    assert.equal(answer.sessionUuid, answer.session.sessionUuid);
    for (const [name, value] of Object.entries(PARAMETERS)) {
      if (name !== 'sessionExpiry' && name !== 'geomatch') assert.equal(answer.session[name], value, name);
    }
    assert.equal(answer.session.firstParty, first.slice(1));
    assert.equal(answer.session.duration, 600);
    const read = await sessions.getMaskingSession(answer.sessionUuid);
    assert.deepEqual({ ...read.response }, { ...answer.session });
  },

  async the_documentations_misspelled_names_are_read() {
    const answer = await created({ subAccount: SUBACCOUNT, geoMatch: false });
    assert.equal(answer.session.subaccount, SUBACCOUNT);
  },

  async generated_pins_come_with_the_answer() {
    const { session } = await created({ isPinAuthenticationRequired: true, generatePin: true, generatePinLength: 8 });
    assert.match(session.firstPartyPin, /^[0-9]{8}$/);
    assert.match(session.secondPartyPin, /^[0-9]{8}$/);
    assert.notEqual(session.firstPartyPin, session.secondPartyPin);
  },

  async a_single_party_session_is_filled_in_later() {
    const [first, second] = parties();
    const answer = await sessions.createMaskingSession(first, '', { createSessionWithSingleParty: true });
    assert.equal(answer.session.secondParty, '');
    const updated = await sessions.updateMaskingSession(answer.sessionUuid, { secondParty: second });
    assert.equal(updated.session.secondParty, second.slice(1));
  },

  async update_changes_every_parameter_that_may_change() {
    const answer = await created();
    const changes = {};
    for (const name of [
      'sessionExpiry', 'callTimeLimit', 'record', 'recordFileFormat', 'recordingCallbackUrl', 'callbackUrl',
      'callbackMethod', 'ringTimeout', 'firstPartyPlayUrl', 'secondPartyPlayUrl', 'recordingCallbackMethod',
    ]) changes[name] = PARAMETERS[name];
    const updated = await sessions.updateMaskingSession(answer.sessionUuid, { ...changes });
    assert.equal(updated.message, 'Session updated');
    for (const [name, value] of Object.entries(changes)) {
      if (name !== 'sessionExpiry') assert.equal(updated.session[name], value, name);
    }
    for (const name of ['firstParty', 'pinRetry', 'unknownCallerPlay']) {
      const value = { firstParty: '+12125559999', pinRetry: 4, unknownCallerPlay: 'https://example.com/x.mp3' }[name];
      await refused(400, `Invalid parameter. ${snake(name)} cannot be changed`, () =>
        sessions.updateMaskingSession(answer.sessionUuid, { [name]: value }));
    }
  },

  async a_deleted_session_is_expired_and_stays_readable() {
    const { sessionUuid } = await created();
    assert.equal((await sessions.deleteMaskingSession(sessionUuid)).message, 'Session expired');
    assert.equal((await sessions.getMaskingSession(sessionUuid)).response.status, 'expired');
    await refused(400, 'Session already expired', () => sessions.deleteMaskingSession(sessionUuid));
  },

  async list_knows_every_filter() {
    const { session } = await created({ sessionExpiry: 4712, subaccount: SUBACCOUNT });
    const [createdTime, expiryTime] = [session.createdTime, session.expiryTime].map((time) => time.slice(0, 19));
    const rows = [
      [{ firstParty: session.firstParty }, 1],
      [{ secondParty: session.secondParty }, 1],
      [{ secondParty: session.firstParty }, 0],
      [{ virtualNumber: session.virtualNumber }, 1],
      [{ virtualNumber: '12025559999' }, 0],
      [{ status: 'active' }, 1],
      [{ status: 'expired' }, 0],
      [{ createdTime }, 1],
      [{ createdTimeEquals: createdTime }, 1],
      [{ createdTimeEquals: '2024-01-01 00:00' }, 0],
      [{ createdTimeGreaterThan: createdTime }, 0],
      [{ createdTimeGreaterOrEqual: createdTime }, 1],
      [{ createdTimeLessThan: createdTime }, 0],
      [{ createdTimeLessOrEqual: createdTime }, 1],
      [{ expiryTime }, 1],
      [{ expiryTimeEquals: expiryTime }, 1],
      [{ expiryTimeEquals: '2024-01-01 00:00' }, 0],
      [{ expiryTimeGreaterThan: expiryTime }, 0],
      [{ expiryTimeGreaterOrEqual: expiryTime }, 1],
      [{ expiryTimeLessThan: expiryTime }, 0],
      [{ expiryTimeLessOrEqual: expiryTime }, 1],
      [{ created_time__gte: '2099-01-01 00:00' }, 0],
      [{ duration: 4712 }, 1],
      [{ durationEquals: 4712 }, 1],
      [{ durationEquals: 4713 }, 0],
      [{ durationGreaterThan: 4712 }, 0],
      [{ durationGreaterOrEqual: 4712 }, 1],
      [{ durationLessThan: 4712 }, 0],
      [{ durationLessOrEqual: 4712 }, 1],
      [{ subaccount: SUBACCOUNT }, 1],
      [{ subAccount: 'SA000000000000000000' }, 0],
      [{ limit: 1, offset: 1 }, 0],
    ];
    for (const [filters, count] of rows) {
      const { response } = await sessions.listMaskingSession({ firstParty: session.firstParty, ...filters });
      assert.equal(response.objects.length, count, JSON.stringify(filters));
      assert.equal(response.meta.totalCount, filters.offset ? 1 : count, JSON.stringify(filters));
    }
  },

  async bad_input_is_an_error_with_status_400() {
    const [first, second] = parties();
    for (const [parameters, text] of [
      [{ sessionExpiry: 86401 }, 'Invalid parameter. session_expiry is outside the allowed range.'],
      [{ ringTimeout: 'long' }, 'Invalid parameter. ring_timeout must be a whole number.'],
      [{ recordFileFormat: 'ogg' }, 'Invalid parameter. record_file_format allowed values are mp3 or wav.'],
      [{ callbackUrl: 'nowhere' }, 'Invalid parameter. callback_url should be a valid URL.'],
      [{ isPinAuthenticationRequired: true }, 'Mandatory parameter missing. first_party_pin must be present.'],
    ]) await refused(400, text, () => sessions.createMaskingSession(first, second, parameters));
    await refused(400, 'Invalid parameter. limit', () => sessions.listMaskingSession({ limit: 0 }));
  },

  async wrong_credentials_are_an_error_with_status_401() {
    const stranger = new plivo.Client(AUTH_ID, 'wrong').maskingSession;
    await refused(401, 'Authentication failed', () => stranger.listMaskingSession());
    await refused(401, 'Authentication failed', () => stranger.createMaskingSession(...parties()));
  },

  async what_is_not_there_is_an_error_with_status_404() {
    await refused(404, 'Session not found.', () => sessions.getMaskingSession(randomUUID()));
    await refused(404, 'Session not found.', () => sessions.updateMaskingSession(randomUUID(), { record: true }));
    await refused(404, 'Session not found.', () => sessions.deleteMaskingSession('no-uuid'));
    await refused(404, 'No compatible virtual numbers found for country code IN.', () =>
      sessions.createMaskingSession('+919876543210', '+12125550002'));
    const { sessionUuid } = await created();
    const other = new plivo.Client(BUSY_ID, AUTH_TOKEN).maskingSession;
    await refused(404, 'Session not found.', () => other.getMaskingSession(sessionUuid));
  },

  async a_server_error_is_an_error_with_status_500_after_two_repeats() {
    turn('away');
    try {
      for (const call of [
        () => sessions.listMaskingSession(),
        () => sessions.createMaskingSession(...parties()),
        () => sessions.getMaskingSession(randomUUID()),
      ]) {
        const answers = await watched(() => refused(500, 'Internal server error.', call));
        assert.deepEqual(statuses(answers), [500, 500, 500]);
      }
    } finally {
      turn('back');
    }
    assert.equal((await created()).message, 'Session created');
  },

  async one_request_too_many_is_an_error_that_says_429() {
    use(STRICT_URL);
    try {
      const strict = new plivo.Client(BUSY_ID, AUTH_TOKEN).maskingSession;
      const answers = await watched(async () => {
        // The SDK knows no such status: it throws an Error around what axios says.
        await assert.rejects(async () => {
          for (let index = 0; index < 100; index += 1) await strict.listMaskingSession();
        }, /status code 429/);
      });
      const last = answers.pop();
      assert.ok(answers.every((answer) => answer.status === 200), String(statuses(answers)));
      assert.deepEqual(Object.keys(last.body), ['api_id', 'error']);
      assert.ok(last.headers['retry-after'] >= 1 && last.headers['retry-after'] <= 5);
    } finally {
      use(BASE_URL);
    }
  },

  async a_create_with_an_idempotency_key_makes_one_session() {
    const [first, second] = parties();
    const headers = { 'Idempotency-Key': randomUUID() };
    const create = (sessionExpiry) => sessions.createMaskingSession(first, second, { sessionExpiry });
    const answers = await watched(async () => {
      const [one, again] = [await create(4444), await create(4444)];
      assert.equal(again.sessionUuid, one.sessionUuid);
      assert.deepEqual({ ...again.session }, { ...one.session });
      await refused(422, 'This Idempotency-Key was used for another request', () => create(4445));
    }, { headers });
    assert.deepEqual(statuses(answers), [201, 201, 422]);
    assert.notEqual((await create(4444)).sessionUuid, answers[0].body.session_uuid);
  },

  async a_create_whose_answer_was_lost_is_repeated_by_the_sdk_and_makes_one_session() {
    const [first, second] = parties();
    const headers = { 'Idempotency-Key': randomUUID() };
    let made;
    const answers = await watched(async () => {
      made = await sessions.createMaskingSession(first, second, {});
    }, { headers, lose: 2 });
    assert.deepEqual(answers.map(({ status, body }) => [status, body.session_uuid]), Array(3).fill([201, made.sessionUuid]));
    assert.equal((await sessions.listMaskingSession({ firstParty: first })).response.meta.totalCount, 1);
  },

  async callbacks_have_signatures_that_the_sdk_takes() {
    const receiver = http.createServer().listen(0, '127.0.0.1');
    await once(receiver, 'listening');
    const base = `http://127.0.0.1:${receiver.address().port}/cb`;
    try {
      for (const [callbackMethod, query, owner] of [
        ['POST', '', {}],
        ['POST', '?x=1&a=b', {}],
        ['GET', '', { subaccount: SUBACCOUNT }],
      ]) {
        const asked = once(receiver, 'request');
        await created({ sessionExpiry: 1, callbackUrl: base + query, callbackMethod, ...owner });
        const [request, response] = await asked;
        let body = '';
        for await (const chunk of request) body += chunk;
        response.end();
        assert.equal(request.method, callbackMethod);
        const url = `http://${request.headers.host}${request.url}`;
        const form = Object.fromEntries(new URLSearchParams(body));
        const event = body ? form : Object.fromEntries(new URL(url).searchParams);
        assert.deepEqual([event.EventName, event.SequenceNumber], ['SessionTimeout', '1']);
        const { 'x-plivo-signature-v3': own, 'x-plivo-signature-ma-v3': ma } = request.headers;
        const takes = (signature, token, parameters) => plivo.validateV3Signature(
          callbackMethod, url, request.headers['x-plivo-signature-v3-nonce'], token, signature, parameters);
        const token = owner.subaccount ? SUBACCOUNT_TOKEN : AUTH_TOKEN;
        assert.ok(takes(own, token, { ...form }), `${callbackMethod} ${query}`);
        assert.ok(takes(ma, AUTH_TOKEN, { ...form }), 'the main account signs, too');
        assert.ok(!takes(own, 'another', { ...form }));
      }
    } finally {
      receiver.close();
      receiver.closeAllConnections();
    }
  },
};

(async () => {
  let [passed, failed] = [0, 0];
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      passed += 1;
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}\n${error instanceof Error ? error.stack : JSON.stringify(error)}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
})();
