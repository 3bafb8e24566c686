const axios = require('axios'); // The SDK's own copy.
const send = axios.getAdapter('http');

exports.use = (base) => {
  axios.defaults.adapter = (config) => send({ ...config, url: config.url.replace('https://api.plivo.com', base) });
};
